"""``medperf doctor``."""

from __future__ import annotations

import click

from medperf_core.cli.output import Format, print_list
from medperf_core.cli.params import format_option, run_options
from medperf_core.cli.session import Session, pass_session
from medperf_core.journeys.doctor import checks
from medperf_core.plugin.doctor import Check, Health

COLUMNS = (
    ("Check", lambda item: item.name),
    ("Health", lambda item: item.health.value),
    ("Found", lambda item: item.found),
    ("What to do", lambda item: item.advice),
)


@click.command()
@format_option
@run_options
@click.pass_context
@pass_session
def doctor(session: Session, /, ctx: click.Context, output: Format) -> None:
    """Check this machine and say what is missing.

    The exit code is 1 if a check failed.
    """
    with session.opened() as site:
        found = list(checks(site))
    print_list(found, COLUMNS, output, empty="Nothing was checked.", data=_data)
    if any(item.health is Health.FAILED for item in found):
        ctx.exit(1)


def _data(check: Check) -> dict[str, str]:
    return {"name": check.name, "health": check.health.value, "found": check.found, "advice": check.advice}

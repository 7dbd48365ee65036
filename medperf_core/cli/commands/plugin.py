"""``medperf plugin``."""

from __future__ import annotations

import attrs
import click

from medperf_core.cli.output import Format, print_list
from medperf_core.cli.params import format_option
from medperf_core.cli.session import Session, pass_session

COLUMNS = (
    ("Plugin", lambda item: item.name),
    ("Version", lambda item: item.version or None),
    ("Distribution", lambda item: item.distribution or None),
    ("Status", lambda item: f"{item.status}: {item.reason}" if item.reason else item.status),
    ("Provides", lambda item: ", ".join(item.provides) or None),
)


@click.group()
def plugin() -> None:
    """See the installed plugins."""


@plugin.command()
@format_option
@pass_session
def ls(session: Session, /, output: Format) -> None:
    """List plugins: what each provides, and why one is not loaded."""
    records = session.plugins().records()
    print_list(records, COLUMNS, output, empty="No plugins are installed.", data=attrs.asdict)

"""``medperf site``: what left this site."""

from __future__ import annotations

import click

from medperf_core.cli.output import Format, note, print_list
from medperf_core.cli.params import format_option
from medperf_core.cli.session import Session, pass_session
from medperf_core.site.audit import AuditLog
from medperf_core.site.home import Home

COLUMNS = (
    ("No.", lambda item: item.n),
    ("Time", lambda item: item.time),
    ("Event", lambda item: item.event.value),
    ("What", lambda item: f"{item.action}: {item.target}"),
    ("Approved by", lambda item: item.approved_by or None),
)


@click.group()
def site() -> None:
    """See what left this site."""


@site.command()
@format_option
@pass_session
def audit(session: Session, /, output: Format) -> None:
    """Check the audit log and print it; an error if anybody changed it. JSON and YAML have all of it."""
    log = AuditLog(Home.open(session.home).audit_dir)
    entries = log.entries()
    head = log.verify()
    print_list(entries, COLUMNS, output, empty="Nothing was sent from this site yet.", whole=(0, 1, 2))
    if entries:
        note(f"The log is whole: {head.count} entries, the last with SHA-256 {head.head}.")

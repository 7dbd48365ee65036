"""``medperf site``: what left this site, and the key that it signs with."""

from __future__ import annotations

from pathlib import Path

import click

from medperf_core.cli.output import Format, note, print_list
from medperf_core.cli.params import format_option, output_path, yes_option
from medperf_core.cli.session import Session, pass_session
from medperf_core.errors import CancelledError, UsageError
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
    """See what left this site, and the key that it signs with."""


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


@site.command()
@click.option(
    "--export",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=output_path,
    help="Write the public key to this new file, as PEM.",
)
@yes_option
@pass_session
def key(session: Session, /, export: Path | None, yes: bool) -> None:
    """Print the fingerprint of this site's key, which signs its bundles; make the key if there is none."""
    from medperf_core.cli.prompts import ask_yes_no
    from medperf_core.site.keys import KeyStore

    store = KeyStore(Home.open(session.home))
    if store.exists():
        pair = store.read()
    else:
        if not yes and not ask_yes_no("This site has no key to sign bundles with. Make one?"):
            raise CancelledError("No key was made.")
        pair = store.make()
        note(f"Made {store.file}. Keep it to yourself; a backup of it belongs where only you can read it.")
    click.echo(pair.fingerprint)
    if export is not None:
        try:
            with export.open("x", encoding="ascii") as stream:
                stream.write(pair.public_pem())
        except OSError as error:
            raise UsageError(f"{export} cannot be written: {error.strerror}.", hint="Name a new file.") from error
        note(f"Wrote the public key to {export}.")

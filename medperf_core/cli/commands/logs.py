"""``medperf logs``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from medperf_core.cli.output import Format, note, print_data, print_list
from medperf_core.cli.params import format_option
from medperf_core.cli.session import Session, pass_session
from medperf_core.cli.text import printable
from medperf_core.errors import NotFoundError
from medperf_core.site.home import Home
from medperf_core.site.logs import bundle as write_bundle
from medperf_core.site.logs import log_files
from medperf_core.site.redact import Redactor

LAST = "last"
COLUMNS = (
    ("Log", lambda row: row["name"]),
    ("Changed", lambda row: row["changed"]),
    ("Bytes", lambda row: row["size"]),
)


@click.group(invoke_without_command=True)
@click.option(
    "--bundle", "target", type=click.Path(path_type=Path), metavar="FILE", help="The same as the command bundle FILE."
)
@click.pass_context
@pass_session
def logs(session: Session, /, ctx: click.Context, target: Path | None) -> None:
    """See the logs of commands, and bundle them to mail.

    Without a command it lists them.
    """
    if target is not None:
        _bundle(session, target)
    elif ctx.invoked_subcommand is None:
        _list(session, Format.TABLE)


@logs.command()
@format_option
@pass_session
def ls(session: Session, /, output: Format) -> None:
    """List the logs, newest first."""
    _list(session, output)


@logs.command()
@click.argument("name", default=LAST)
@format_option
@pass_session
def view(session: Session, /, name: str, output: Format) -> None:
    """Show a log by its name or the beginning of it; without NAME the last one."""
    files = log_files(Home.open(session.home).logs_dir)
    found = files[:1] if name == LAST else [file for file in files if file.name.startswith(name)]
    if not found:
        raise NotFoundError(
            f"There is no log {name!r}." if files else "There are no logs yet.",
            hint="medperf logs lists them." if files else None,
        )
    lines = found[0].read_text("utf-8", "backslashreplace").splitlines()
    if output is Format.TABLE:
        for line in lines:
            click.echo(printable(line))
        return
    print_data({"name": found[0].name, "lines": lines}, output)


@logs.command()
@click.argument("file", type=click.Path(path_type=Path))
@pass_session
def bundle(session: Session, /, file: Path) -> None:
    """Pack the logs into FILE (.tar.gz) to mail, without secrets and without your paths."""
    _bundle(session, file)


def _bundle(session: Session, target: Path) -> None:
    names = write_bundle(Home.open(session.home), target, Redactor())
    for name in names:
        click.echo(name)
    note(f"Packed {len(names)} files into {target}. Look into it before you mail it.")


def _list(session: Session, output: Format) -> None:
    rows = []
    for file in log_files(Home.open(session.home).logs_dir):
        status = file.stat()
        changed = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        rows.append({"name": file.name, "changed": changed, "size": status.st_size})
    print_list(rows, COLUMNS, output, empty="There are no logs yet.", data=dict)

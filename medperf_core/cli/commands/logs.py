"""``medperf logs``: of commands, and of what tasks of containers wrote."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from medperf_core.cli.output import Format, note, print_data, print_list
from medperf_core.cli.params import format_option
from medperf_core.cli.session import Session, pass_session
from medperf_core.cli.text import printable
from medperf_core.errors import NotFoundError
from medperf_core.site.home import Home
from medperf_core.site.logs import TASKS, TaskLogFile, log_files, task_logs
from medperf_core.site.logs import bundle as write_bundle
from medperf_core.site.redact import Redactor

LAST = "last"
COLUMNS = (
    ("Log", lambda row: row["name"]),
    ("Task", lambda row: row["task"]),
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

    Without a command it lists them, and what tasks of containers wrote, which no bundle has.
    """
    if target is not None:
        _bundle(session, target)
    elif ctx.invoked_subcommand is None:
        _list(session, Format.TABLE)


@logs.command()
@format_option
@pass_session
def ls(session: Session, /, output: Format) -> None:
    """List the logs of commands, newest first, then those of tasks, newest first."""
    _list(session, output)


@logs.command()
@click.argument("name", default=LAST)
@format_option
@pass_session
def view(session: Session, /, name: str, output: Format) -> None:
    """Show a log by its name or the beginning of it, such as tasks/infer; without NAME the last command's."""
    folder = Home.open(session.home).logs_dir
    files = {file.name: file for file in log_files(folder)}
    if name != LAST:
        files |= {_task_name(log): log.path for log in task_logs(folder)}
    found = next((known for known in files if name == LAST or known.startswith(name)), None)
    if found is None:
        raise NotFoundError(
            f"There is no log {name!r}." if files else "There are no logs yet.",
            hint="medperf logs lists them." if files else None,
        )
    lines = files[found].read_text("utf-8", "backslashreplace").splitlines()
    if output is Format.TABLE:
        for line in lines:
            click.echo(printable(line))
        return
    print_data({"name": found, "lines": lines}, output)


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
    folder = Home.open(session.home).logs_dir
    rows = []
    for file in log_files(folder):
        status = file.stat()
        rows.append(_row(file.name, None, status.st_mtime, status.st_size))
    rows += [_row(_task_name(log), log.task, log.changed, log.size) for log in task_logs(folder)]
    print_list(rows, COLUMNS, output, empty="There are no logs yet.", data=dict)


def _row(name: str, task: str | None, changed: float, size: int) -> dict[str, Any]:
    time = datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {"name": name, "task": task, "changed": time, "size": size}


def _task_name(log: TaskLogFile) -> str:
    return f"{TASKS}/{log.path.name}"

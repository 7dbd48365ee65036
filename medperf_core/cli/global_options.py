"""The options that go before the command. They override the profile for this one command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from medperf_core.cli import complete
from medperf_core.cli.session import Session
from medperf_core.errors import UsageError

FIELD_TASKS = ("prepare", "sanity_check", "statistics", "infer", "evaluate")


def options() -> list[click.Parameter]:
    """All of them. The time-outs that the public client knows by task are taken too, out of sight."""
    shown = [
        click.Option(
            ["--version", "-V"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Show the version and exit.",
        ),
        click.Option(
            ["--home"],
            type=click.Path(file_okay=False, path_type=Path),
            metavar="PATH",
            help="Folder of profiles, cache and records.",
        ),
        click.Option(
            ["--profile"],
            metavar="NAME",
            shell_complete=complete.profiles,
            help="Use this profile instead of the active one.",
        ),
        click.Option(
            ["--platform"],
            metavar="NAME",
            shell_complete=complete.platforms,
            help="Runner of containers, such as docker.",
        ),
        click.Option(
            ["--executor"], metavar="NAME", shell_complete=complete.executors, help="Where tasks run, such as local."
        ),
        click.Option(
            ["--allow"],
            multiple=True,
            metavar="NAME",
            help="Waive a guarantee by name (repeatable), such as no-isolation.",
        ),
        click.Option(["--offline"], is_flag=True, help="Open no connection."),
        click.Option(["--gpus"], metavar="WHICH", help="none, all, a count, or device=0,1."),
        click.Option(["--shm-size"], metavar="SIZE", help="Shared memory of a task, such as 2g."),
        click.Option(["--memory"], metavar="SIZE", help="Memory limit of a task, such as 8g."),
        click.Option(
            ["--cpus"], type=click.FloatRange(min=0, min_open=True), metavar="NUMBER", help="CPU limit of a task."
        ),
        click.Option(
            ["--time-limit"],
            multiple=True,
            metavar="[TASK=]SECONDS",
            help="Total time of a task, or of every task (repeatable).",
        ),
        click.Option(["--debug"], is_flag=True, help="Show tracebacks."),
        click.Option(["--quiet", "-q"], is_flag=True, help="Show results, warnings and errors only."),
    ]
    field = [
        click.Option([f"--{task}-timeout".replace("_", "-")], type=click.FloatRange(min=0, min_open=True), hidden=True)
        for task in FIELD_TASKS
    ]
    return [*shown, *field]


def apply(**given: Any) -> None:
    """Keep the global options in the session of the command line."""
    session = click.get_current_context().ensure_object(Session)
    session.home = given.pop("home")
    session.profile = given.pop("profile")
    session.debug = given.pop("debug")
    session.quiet = given.pop("quiet")
    session.allow.extend(given.pop("allow"))
    limits = dict(_limit(text) for text in given.pop("time_limit"))
    for task in FIELD_TASKS:
        seconds = given.pop(f"{task}_timeout")
        if seconds is not None:
            limits.setdefault(task, seconds)
    session.override(
        {name: given.pop(name) for name in ("platform", "executor", "offline", "gpus", "shm_size", "memory", "cpus")}
    )
    session.override({"time_limits": limits or None})
    for name, value in given.items():
        backend, _, field = name.partition("__")
        if value not in (None, ()):
            session.settings.setdefault(backend, {})[field] = value


def _limit(text: str) -> tuple[str, float]:
    from medperf_core.site.options import ALL_TASKS

    task, equals, number = text.rpartition("=")
    try:
        seconds = float(number)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf") or (equals and not task):
        raise UsageError(
            f"--time-limit {text!r} is not a number of seconds.",
            hint="Write --time-limit 3600 for every task, or --time-limit infer=3600 for one.",
        )
    return task or ALL_TASKS, seconds


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        sys.stdout.write(f"medperf {version('medperf-core')}\n")
        ctx.exit()

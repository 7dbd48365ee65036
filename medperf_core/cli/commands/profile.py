"""``medperf profile``: named sets of choices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import click

from medperf_core.cli import complete
from medperf_core.cli.output import Format, note, print_list, print_one
from medperf_core.cli.params import format_option
from medperf_core.cli.session import Session, pass_session
from medperf_core.entities.codec import to_data
from medperf_core.errors import MedperfError, UsageError
from medperf_core.plugin import ExecutorPlugin, RunnerPlugin
from medperf_core.plugin.settings import fields_of
from medperf_core.site.home import Home
from medperf_core.site.profiles import Profile, ProfileStore

TEXTS = {
    "server": "Address of the server: https://..., or embedded:PATH.",
    "platform": "Runner of containers, such as docker.",
    "executor": "Where tasks run, such as local.",
    "gpus": "none, all, a count, or device=0,1.",
    "shm_size": "Shared memory of a task, such as 2g.",
    "memory": "Memory limit of a task, such as 8g.",
    "cpus": "CPU limit of a task.",
    "processes": "Number of processes that a task may have.",
    "ca_bundle": "PEM file of the certificate authorities to trust.",
    "loglevel": "debug, info, warning or error.",
    "credentials": "Where logins are put: file, or keyring for the system's.",
}
LISTS = {
    "allow": "A guarantee to waive for every command (repeatable).",
    "required_plugins": "A plugin without which nothing runs and nothing is sent (repeatable).",
    "blocked_plugins": "A plugin that is not even imported (repeatable).",
    "trusted_keys": "Fingerprint of a maker whose bundles are loaded (repeatable).",
}
OFFERED = {"platform": complete.platforms, "executor": complete.executors}
BACKENDS: dict[str, type[RunnerPlugin | ExecutorPlugin]] = {"platform": RunnerPlugin, "executor": ExecutorPlugin}
EMBEDDED = "embedded:"
TASKS = ("prepare", "sanity_check", "statistics", "infer", "evaluate")


def _choices(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of ``create`` and ``set``, and their words ``KEY=VALUE``."""
    for task in reversed(TASKS):
        command = click.option(
            f"--{task.replace('_', '-')}-timeout", f"time_limits_{task}", metavar="SECONDS", hidden=True
        )(command)
    for name, text in reversed(LISTS.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, multiple=True, metavar="NAME", help=text)(command)
    for name, text in reversed(TEXTS.items()):
        command = click.option(
            f"--{name.replace('_', '-')}", name, metavar="VALUE", help=text, shell_complete=OFFERED.get(name)
        )(command)
    return click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")(command)


@click.group()
def profile() -> None:
    """Manage profiles: servers, engines and other settings."""


@profile.command()
@click.argument("name", shell_complete=complete.profiles)
@pass_session
def activate(session: Session, /, name: str) -> None:
    """Make a profile the one that commands use."""
    _store(session).activate(name)
    note(f"The active profile is now {name}.")


@profile.command()
@click.argument("name", required=False)
@click.option("--name", "-n", "named", metavar="NAME", help="The same as the argument NAME.")
@click.option(
    "--like",
    metavar="PROFILE",
    shell_complete=complete.profiles,
    help="Start from a copy of this profile instead of the defaults.",
)
@_choices
@pass_session
def create(session: Session, /, name: str | None, named: str | None, like: str | None, **given: Any) -> None:
    """Make a profile. Choices are options, or words such as platform=docker or docker.host=VALUE."""
    if named is not None and name is not None:
        given["words"] = (name, *given["words"])
    chosen = named or name
    if not chosen:
        raise UsageError("The new profile needs a name.", hint="Write: medperf profile create NAME")
    store = _store(session)
    store.create(chosen, like=like)
    try:
        _apply(session, store, chosen, _changes(given))
    except MedperfError:
        store.delete(chosen)
        raise
    note(f"Created the profile {chosen}.")
    note(f"Next: medperf profile activate {chosen}")


@profile.command(name="set")
@_choices
@pass_session
def set_(session: Session, /, **given: Any) -> None:
    """Change the active profile, or the one of `medperf --profile NAME profile set`.

    Choices are options, or words such as platform=docker, policy.owners=a@b.org,c@d.org or docker.host=VALUE.
    KEY= without a value sets the default again.
    """
    changes = _changes(given)
    if not changes:
        raise UsageError("There is nothing to set.", hint="Write for instance: medperf profile set platform=docker")
    store = _store(session)
    name = session.profile or store.active_name
    before = store.get(name)
    try:
        _apply(session, store, name, changes)
    except MedperfError:
        store.update(name, attrs.asdict(before, recurse=False))
        raise
    note(f"Changed the profile {name}: {', '.join(key for key, _ in changes)}.")


@profile.command()
@format_option
@pass_session
def ls(session: Session, /, output: Format) -> None:
    """List profiles; the active one has a star."""
    store = _store(session)
    active = session.profile or store.active_name
    rows = [
        {
            "name": name,
            "active": name == active,
            "server": item.server,
            "platform": item.platform,
            "executor": item.executor,
        }
        for name in store.names()
        for item in [store.get(name)]
    ]
    columns = (
        ("Profile", lambda row: row["name"]),
        ("Active", lambda row: "*" if row["active"] else ""),
        ("Server", lambda row: row["server"] or None),
        ("Platform", lambda row: row["platform"]),
        ("Executor", lambda row: row["executor"]),
    )
    print_list(rows, columns, output, empty="There are no profiles.", data=dict)


@profile.command()
@click.argument("name", required=False, shell_complete=complete.profiles)
@format_option
@pass_session
def view(session: Session, /, name: str | None, output: Format) -> None:
    """Show a profile; without NAME the one in use."""
    store = _store(session)
    chosen = name or session.profile or store.active_name
    shown = {"name": chosen, "active": chosen == store.active_name, **to_data(store.get(chosen))}
    print_one(shown, output, data=dict)


@profile.command()
@click.argument("name", shell_complete=complete.profiles)
@pass_session
def delete(session: Session, /, name: str) -> None:
    """Forget a profile."""
    _store(session).delete(name)
    note(f"Deleted the profile {name}.")


def _store(session: Session) -> ProfileStore:
    return ProfileStore(Home.open(session.home))


def _changes(given: dict[str, Any]) -> list[tuple[str, str]]:
    changes = []
    for word in given["words"]:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{word!r} is not a choice of the form KEY=VALUE.")
        changes.append((key, value))
    changes += [(name, given[name]) for name in TEXTS if given[name] is not None]
    changes += [(name, ",".join(given[name])) for name in LISTS if given[name]]
    changes += [
        (f"time_limits.{task}", given[f"time_limits_{task}"])
        for task in TASKS
        if given[f"time_limits_{task}"] is not None
    ]
    return changes


def _apply(session: Session, /, store: ProfileStore, name: str, changes: Iterable[tuple[str, str]]) -> Profile:
    plugins = session.plugins()
    fields = [field for item in plugins.descriptors() for field in fields_of(item.name, item.settings)]
    for key, value in changes:
        if key in BACKENDS and value.strip():
            plugins.get(BACKENDS[key], value.strip())  # an unknown name is refused with those that are installed
        store.set_text(name, key, _absolute(value.strip()) if key == "server" else value, fields)
    return store.get(name)


def _absolute(server: str) -> str:
    """The server's address, with the path of a registry file as it is seen from this folder."""
    path = server.removeprefix(EMBEDDED)
    if path in ("", server) or path.startswith("~"):
        return server
    return f"{EMBEDDED}{Path(path).absolute()}"

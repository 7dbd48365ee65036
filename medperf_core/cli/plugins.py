"""What plugins add to the command line: options from their settings classes, and commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import click

from medperf_core.cli.output import note
from medperf_core.cli.session import Session
from medperf_core.errors import MedperfError, UsageError
from medperf_core.plugin.known import DISTRIBUTIONS
from medperf_core.plugin.manager import PluginManager
from medperf_core.plugin.settings import SettingField, fields_of


def options(manager: PluginManager | None) -> list[click.Parameter]:
    """One option for each field of the settings of the installed backends, secrets left out."""
    if manager is None:
        return []
    found: dict[str, click.Parameter] = {}
    for descriptor in manager.descriptors():
        for field in fields_of(descriptor.name, descriptor.settings):
            if not field.secret:
                found.setdefault(field.option, _option(field))
    return list(found.values())


def _option(field: SettingField) -> click.Option:
    name = f"{field.backend}__{field.name}".replace("-", "_")
    if field.type is bool:
        off = field.option.replace(f"--{field.backend}-", f"--{field.backend}-no-", 1)
        return click.Option([name, f"{field.option}/{off}"], default=None, help=field.help)
    default = field.default if field.default not in (None, "", ()) else None
    shown = f"{field.help}  [default: {default}]" if default is not None else field.help
    return click.Option([name, field.option], type=field.type, multiple=field.many, metavar="VALUE", help=shown)


def add_commands(root: click.Group, manager: PluginManager | None) -> None:
    """Let plugins add commands to the root; names that it has already are refused to them."""
    if manager is None:
        return
    offered = click.Group("medperf")
    taken = {name: click.Command(name) for name in root.list_commands(click.Context(root))}
    offered.commands.update(taken)
    manager.add_commands(offered)
    for name, command in offered.commands.items():
        if name not in taken:
            root.add_command(command, name)


def explain_unknown_option(error: click.NoSuchOption, known_options: Sequence[click.Parameter]) -> None:
    """Say what to install where an option looks like one of a backend of ours that is not here.

    Raises:
        UsageError: it does.
    """
    word = error.option_name.lstrip("-").split("-")[0]
    if any(option.startswith(f"--{word}-") for param in known_options for option in param.opts):
        return
    known = {name: distribution for names in DISTRIBUTIONS.values() for name, distribution in names.items()}
    known.update({distribution.removeprefix("medperf-"): distribution for distribution in list(known.values())})
    if word in known:
        raise UsageError(
            f"{error.option_name} is not an option here.",
            hint=f"Options that start with --{word}- come with {known[word]}: pip install {known[word]}. "
            "If it is installed, see why it is not loaded with: medperf plugin ls",
        )


def refuse_unknown_command(ctx: click.Context, word: str, names: Iterable[str], elsewhere: Mapping[str, str]) -> None:
    """End with the commands that are closest to a word, or with the distribution that has it."""
    if word in elsewhere:
        raise UsageError(
            f"The command {word!r} is not here.",
            hint=f"It comes with {elsewhere[word]}: pip install {elsewhere[word]}.",
        )
    close = get_close_matches(word, list(names), n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    ctx.fail(f"There is no command {word!r}.{hint}")


def load_or_none(ctx: click.Context, *, quiet: bool = False) -> PluginManager | None:
    """The plugins of the profile in use, for help and completion, which go on without them where the home or the
    profile is not usable.

    Args:
        quiet: do not say why.
    """
    try:
        return ctx.ensure_object(Session).plugins()
    except (MedperfError, OSError) as error:
        if not quiet:
            note(f"Plugins are left out of this help: {error}")
        return None

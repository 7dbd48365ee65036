"""The commands of ``medperf``, and whether a command line that is written somewhere fits them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click

from medperf_core.cli import plugins
from medperf_core.cli.params import dashes
from medperf_core.cli.root import make_root
from medperf_core.plugin.manager import PluginManager

ALIASES = {"container": "mlcube", "storage": "cache"}
_OPERATORS = {"|", ";", "&&", "||", "&", ">", ">>", "2>&1", "<"}


class Tree:
    """All commands and options, those of plugins included."""

    def __init__(self) -> None:
        self._manager = PluginManager.discover()
        self.root = make_root()
        plugins.add_commands(self.root, self._manager)
        self.context = click.Context(self.root, info_name="medperf", token_normalize_func=dashes)

    def leaves(self) -> Iterator[str]:
        """Every command that is not a group, less other names of the same."""
        yield from self._leaves(self.root, self.context, "medperf")

    def _leaves(self, command: click.Command, context: click.Context, path: str) -> Iterator[str]:
        if not isinstance(command, click.Group):
            yield path
            return
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            if name not in ALIASES and not inner.hidden:
                yield from self._leaves(inner, click.Context(inner, parent=context), f"{path} {name}")

    def problem(self, line: str, *, whole: bool = True) -> str | None:
        """What is wrong with a command line that begins with ``medperf``; None if nothing is.

        Args:
            whole: whether it is a command as typed, with all that it needs; else it may stop anywhere.
        """
        words = shlex.split(line.replace("\\\n", " "), comments=True)
        end = next((index for index, word in enumerate(words) if word in _OPERATORS), len(words))
        words = [word.rstrip(";") for word in words[1:end] if word not in ("...", "[THESE OPTIONS]")]
        command: click.Command = self.root
        context = self.context
        try:
            while True:
                params = list(command.get_params(context))
                if command is self.root:
                    params += plugins.options(self._manager)
                given, words = self._parse(params, words, context)
                if not isinstance(command, click.Group):
                    return self._missing(command, given, context) if whole else None
                if not words or words[0] == "COMMAND":
                    return "it stops at a group of commands" if whole and not given else None
                name = dashes(words[0])
                inner = command.get_command(context, name)
                if inner is None:
                    return f"there is no command {words[0]!r}"
                command, words = inner, words[1:]
                context = click.Context(command, info_name=name, parent=context)
        except click.UsageError as error:
            return error.format_message()

    def _parse(
        self, params: list[click.Parameter], words: list[str], context: click.Context
    ) -> tuple[dict[str, object], list[str]]:
        shell = click.Command("shell", params=[p for p in params if isinstance(p, click.Option)])
        inside = click.Context(shell, token_normalize_func=dashes)
        inside.allow_interspersed_args = not isinstance(context.command, click.Group)
        given, rest, _ = shell.make_parser(inside).parse_args(list(words))
        for param in params:
            value = given.get(param.name or "")
            if isinstance(param.type, click.Choice) and isinstance(value, str) and value.islower():
                param.type.convert(value, param, inside)
        if isinstance(context.command, click.Group):
            return given, rest
        arguments = [param for param in params if isinstance(param, click.Argument)]
        if len(rest) > len(arguments) and not any(param.nargs == -1 for param in arguments):
            raise click.UsageError(f"it has {len(rest)} arguments ({rest}); {len(arguments)} are known")
        return {**given, "": rest}, []

    def _missing(self, command: click.Command, given: dict[str, object], context: click.Context) -> str | None:
        if given.get("help"):
            return None
        rest = given[""]
        assert isinstance(rest, list)
        needed = [param for param in command.get_params(context) if param.required]
        options = [param.opts[0] for param in needed if isinstance(param, click.Option) and param.name not in given]
        arguments = [param.human_readable_name for param in needed if isinstance(param, click.Argument)]
        missing = options + arguments[len(rest) :]
        return f"it lacks {', '.join(missing)}" if missing else None


def commands_in(text: str) -> Iterator[str]:
    """The command lines of ``medperf`` in a fenced block, as typed; outputs of a console session are left out."""
    prompts = any(line.startswith("$ ") for line in text.splitlines())
    for line in text.replace("\\\n", " ").splitlines():
        if prompts and not line.startswith("$ "):
            continue
        for found in re.finditer(r"(?:^|[;&|(] *|^\$ |PATH |\w=\S+ |INT \d+ )(medperf(?: .*)?)$", line.strip()):
            yield found[1]

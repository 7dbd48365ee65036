"""Options and arguments that many commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from medperf_core.cli.output import Format
from medperf_core.cli.session import Session
from medperf_core.errors import UsageError
from medperf_core.site.folders import check_place

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:  # older versions of click cannot be asked for the type of its value
    IntType = click.ParamType[int]
    TextType = click.ParamType[str]
else:
    IntType = TextType = click.ParamType


def dashes(word: str) -> str:
    """The spelling that options and commands are declared in: ``model_uid`` and ``model-uid`` are the same."""
    return word.replace("_", "-")


class Uid(IntType):
    """A server UID: a whole number from 1."""

    name = "uid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        word = str(value)
        if not (word.isascii() and word.isdigit() and len(word) < 20 and int(word) > 0):
            self.fail(f"{word!r} is not a server UID (a whole number from 1, as ls commands list them).", param, ctx)
        return int(word)


class UidOrPath(TextType):
    """A server UID, or the path of a container's folder or manifest on this machine; given to the command as text.

    Digits alone are a UID. Where a file or folder of that name lies here too, the word could mean either and is
    refused.
    """

    name = "uid|path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        word = str(value)
        here = _lies_here(Path(word))
        if word.isascii() and word.isdigit():
            if here:
                self.fail(
                    f"{word} could be the server UID or the file of that name in this folder. For the file "
                    f"write .{os.sep}{word}; for the UID, run the command in another folder.",
                    param,
                    ctx,
                )
            return str(Uid().convert(word, param, ctx))
        if not here:
            self.fail(
                f"There is no file or folder {word!r}."
                if os.sep in word
                else f"{word!r} is neither a server UID (a whole number) nor a file or folder here.",
                param,
                ctx,
            )
        return word


def _lies_here(path: Path) -> bool:
    """Whether there is a file or a folder.

    Raises:
        UsageError: there is something else, or nobody can tell.
    """
    check_place(path, f"The path {path}")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UsageError(f"{path} is neither a file nor a folder.", hint="Name a container's folder or its manifest.")
    return path.exists()


def container_path(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """A callback: the path of a container; what is neither file nor folder is refused."""
    if value is not None:
        _lies_here(value)
    return value


def output_path(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """A callback: where the command is to write; a place that cannot be is refused before the work begins."""
    if value is not None:
        check_place(value, f"{param.opts[0]} {value}")
    return value


UID = Uid()
UID_OR_PATH = UidOrPath()
EXISTING = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def format_option(command: F) -> F:
    """``--format table|json|yaml``, given to the command as ``output``."""
    return click.option(
        "--format",
        "-f",
        "output",
        type=click.Choice([item.value for item in Format]),
        default=Format.TABLE.value,
        show_default=True,
        callback=lambda ctx, param, value: Format(value),
        help="How to print it.",
    )(command)


def yes_option(command: F) -> F:
    """``--yes/-y``, given to the command as ``yes``."""
    return click.option("--yes", "-y", is_flag=True, help="Answer yes to every question.")(command)


def mine_option(command: F) -> F:
    """``--mine``."""
    return click.option("--mine", is_flag=True, help="Only those of the logged-in user.")(command)


def run_options(command: F) -> F:
    """``--allow NAME`` and ``--offline`` behind the command too, where people type them."""
    command = click.option(
        "--allow",
        multiple=True,
        metavar="NAME",
        expose_value=False,
        callback=_add_allow,
        help="Waive a guarantee by name, here and now (repeatable).",
    )(command)
    return click.option(
        "--offline",
        is_flag=True,
        expose_value=False,
        callback=_set_offline,
        help="Open no connection.",
    )(command)


def _add_allow(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    ctx.ensure_object(Session).allow.extend(value)


def _set_offline(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Session).options["offline"] = True

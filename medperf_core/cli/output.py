"""What commands print: data to standard output as table, JSON or YAML; everything else to standard error."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import click

from medperf_core.cli.table import print_table
from medperf_core.cli.text import moment, printable

T = TypeVar("T")
Column = tuple[str, Callable[[T], object]]


class Format(StrEnum):
    """How ``ls`` and ``view`` print: for people, or for programs."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def print_list(
    things: Sequence[T],
    columns: Sequence[Column[T]],
    output: Format,
    *,
    empty: str,
    data: Callable[[T], Any] | None = None,
    whole: Sequence[int] = (0,),
) -> None:
    """Print a list.

    Args:
        things: what to list.
        columns: heading and value of each column of the table.
        empty: the sentence for an empty table.
        data: all that a program gets of a thing; by default what the codec makes of it.
        whole: columns that are never folded.
    """
    if output is Format.TABLE:
        rows = [[cell(value(thing)) for _, value in columns] for thing in things]
        print_table([heading for heading, _ in columns], rows, empty=empty, whole=whole)
    else:
        print_data([(data or _encoded)(thing) for thing in things], output)


def print_one(thing: Any, output: Format, *, data: Callable[[Any], Any] | None = None) -> None:
    """Print one thing with all of its fields; nested fields of the table are written as YAML."""
    plain = (data or _encoded)(thing)
    if output is not Format.TABLE:
        print_data(plain, output)
        return
    rows = [[str(key), _block(value)] for key, value in plain.items()]
    print_table(("Field", "Value"), rows, empty="Nothing to show.")


def print_data(plain: Any, output: Format) -> None:
    """Print plain data as JSON or YAML."""
    if output is Format.JSON:
        click.echo(json.dumps(plain, indent=2, ensure_ascii=False))
    else:
        click.echo(_yaml(plain), nl=False)


def note(text: str) -> None:
    """Say something beside the data: to standard error."""
    click.echo(printable(text), err=True)


def next_step(command: str) -> None:
    """Say what to do next."""
    note(f"Next: {command}")


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return moment(str(value))


def _block(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)) and value:
        return _yaml(value).rstrip("\n")
    if isinstance(value, (dict, list, tuple)):
        return "-"
    return cell(value)


def _yaml(plain: Any) -> str:
    import yaml

    plain = json.loads(json.dumps(plain))  # YAML knows neither tuples nor our words of a kind
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=1 << 16)
    return text


def _encoded(thing: Any) -> Any:
    from medperf_core.entities.codec import to_data

    return to_data(thing)

"""Plain tables: no frames, no colours where nobody looks, wide cells folded, identifiers and times never cut."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence

import click

from medperf_core.cli.text import columns, fold, printable

GAP = "  "
NARROWEST = 12
UNFOLDED = 1 << 16
_UNBROKEN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ|(?:[\w-]+:)*[0-9a-f]{32,}")
"""Times and hashes: a column that holds one is at least as wide."""


def render(headings: Sequence[str], rows: Sequence[Sequence[str]], *, width: int, whole: Sequence[int] = (0,)) -> str:
    """A table as text.

    Args:
        headings: one for each column.
        rows: cells; may hold line ends.
        width: columns of the terminal; wide columns are folded so that the table fits, as far as it can.
        whole: numbers of the columns that are never folded, such as that of UIDs.
    """
    cells = [[printable(cell, keep="\n").expandtabs() for cell in row] for row in rows]
    widths = [
        max([columns(heading), *(columns(line) for row in cells for line in row[index].split("\n"))])
        for index, heading in enumerate(headings)
    ]
    least = [
        widths[index]
        if index in whole
        else max([NARROWEST, *(len(word) for row in cells for word in _UNBROKEN.findall(row[index]))])
        for index in range(len(widths))
    ]
    _shrink(widths, least, width - len(GAP) * (len(widths) - 1))
    lines = [_line(headings, widths), _line(["-" * size for size in widths], widths)]
    for row in cells:
        folded = [fold(cell, size) for cell, size in zip(row, widths, strict=True)]
        height = max(map(len, folded))
        lines += [_line([cell[part] if part < len(cell) else "" for cell in folded], widths) for part in range(height)]
    return "\n".join(lines)


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str, whole: Sequence[int] = (0,)
) -> None:
    """Print a table to standard output; where it is empty, the sentence ``empty`` to standard error."""
    if not rows:
        click.echo(empty, err=True)
        return
    on_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if on_terminal else UNFOLDED
    first, *rest = render(headings, rows, width=width, whole=whole).split("\n")
    click.echo(click.style(first, bold=True) if on_terminal else first)
    click.echo("\n".join(rest))


def _shrink(widths: list[int], least: Sequence[int], room: int) -> None:
    while sum(widths) > room:
        folding = [index for index, size in enumerate(widths) if size > least[index]]
        if not folding:
            return
        widths[max(folding, key=lambda index: widths[index])] -= 1


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(cell + " " * (size - columns(cell)) for cell, size in zip(cells, widths, strict=True)).rstrip()

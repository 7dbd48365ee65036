"""Reads the documentation: its pages, code blocks, tables and headings, and runs the console sessions in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```[ \t]*$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{1,6}) +(.+?) *#*$", re.MULTILINE)


def pages() -> list[Path]:
    """Every page that a reader is sent to."""
    top = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/README.md")]
    return [*top, *sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]


@attrs.frozen
class Block:
    """A fenced block: its info string, its text, and the number of its first line in the page."""

    info: str
    text: str
    line: int


def blocks(page: Path, info: str | None = None) -> list[Block]:
    """The fenced blocks of a page, only those with this info string if one is given."""
    text = page.read_text("utf-8")
    found = []
    for match in _FENCE.finditer(text):
        indent = match[1]
        body = "".join(line.removeprefix(indent) for line in match[3].splitlines(keepends=True))
        found.append(Block(match[2].strip(), body, text.count("\n", 0, match.start()) + 2))
    return [block for block in found if info is None or block.info == info]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def headings(page: Path) -> list[str]:
    """The headings of a page, without the signs before them."""
    return [match[2] for match in _HEADING.finditer(prose(page))]


def anchors(page: Path) -> set[str]:
    """What a link may name after ``#``, as GitHub makes it of the headings."""
    found: set[str] = set()
    for heading in headings(page):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


def rows(page: Path, first_heading: str) -> list[list[str]]:
    """The rows of the tables of a page whose first column has this heading; cells without backticks around them."""
    found: list[list[str]] = []
    inside = False
    for line in prose(page).splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells[0] == first_heading:
            inside = True
        elif inside and not set(cells[0]) <= set("-: "):
            found.append([cell[1:-1] if re.fullmatch(r"`[^`]*`", cell) else cell for cell in cells])
    return found


@attrs.frozen
class Typed:
    """A command of a console session and what it is said to print; ``...`` stands for whatever is there."""

    command: str
    expected: tuple[str, ...]
    line: int


def session(page: Path, info: str = "console") -> Iterator[Typed]:
    """The commands of all console blocks of a page, in order."""
    for block in blocks(page, info):
        command: list[str] = []
        expected: list[str] = []
        start = block.line
        for number, line in enumerate(block.text.splitlines(), block.line):
            # the engine's own command, which `container run` shows with a $ before it, is output
            shown = bool(expected) and expected[-1].startswith("Preparing the image")
            if line.startswith("$ ") and not shown:
                if command:
                    yield Typed("\n".join(command), tuple(expected), start)
                command, expected, start = [line[2:]], [], number
            elif command and command[-1].endswith("\\") and not expected:
                command.append(line)
            else:
                expected.append(line)
        if command:
            yield Typed("\n".join(command), tuple(expected), start)


class Console:
    """A person's terminal: a folder, a home, and the exit code of the last command."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MEDPERF_", "_MEDPERF"))}
        programs = Path(sys.executable).parent
        self.variables = {
            **clean,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder / "user"),
            "MEDPERF_HOME": str(folder / "user" / ".medperf"),
            "COLUMNS": "100",
            **variables,
        }
        (folder / "user").mkdir(exist_ok=True)
        self._last = 0

    def run(self, command: str, answer: str = "") -> tuple[int, str]:
        """Exit code and all output of a command."""
        done = subprocess.run(
            ["bash", "-c", f"(exit {self._last})\n{command}"],
            cwd=self.folder,
            env=self.variables,
            input=answer,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self._last = done.returncode
        return done.returncode, done.stdout

    def follow(self, page: Path, info: str = "console") -> int:
        """Type every command of a page and compare what it prints; returns how many there were."""
        count = 0
        for typed in session(page, info):
            answer = "y\n" if any(line.endswith("[y/N] y") for line in typed.expected) else ""
            expected = [line.removesuffix("y") if line.endswith("[y/N] y") else line for line in typed.expected]
            _, output = self.run(typed.command, answer)
            place = f"{page.relative_to(ROOT)}:{typed.line}"
            assert _pattern(expected).fullmatch(output.rstrip("\n") + "\n" if output else ""), (
                f"{place}\n$ {typed.command}\n--- the page says\n" + "\n".join(expected) + f"\n--- it says\n{output}"
            )
            count += 1
        return count


def _pattern(lines: list[str]) -> re.Pattern[str]:
    parts = []
    for line in lines:
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(".*?".join(re.escape(piece) for piece in line.rstrip().split("...")) + r"[ \t]*\n")
    return re.compile("".join(parts))

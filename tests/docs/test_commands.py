"""The list of commands is whole, and every command that a page shows exists with the options it is given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .pages import DOCS, ROOT, blocks, pages, prose, rows
from .tree import ALIASES, Tree, commands_in

PAGE = DOCS / "reference" / "commands.md"


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree()


def test_every_command_is_in_the_list_and_no_other(tree: Tree) -> None:
    leaves = set(tree.leaves())
    listed = [next(leaf for leaf in leaves if f"{row[0]} ".startswith(f"{leaf} ")) for row in rows(PAGE, "command")]
    assert sorted(listed) == sorted(leaves)
    assert all(row[1] for row in rows(PAGE, "command"))


def test_the_other_names_are_said() -> None:
    assert all(
        f"`medperf {other}` is another name for `medperf {name}`" in prose(PAGE).replace("\n", " ")
        for other, name in ALIASES.items()
    )


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_a_block_can_be_typed(page: Path, tree: Tree) -> None:
    problems = [
        f"{page.name}:{block.line}: {line}: {problem}"
        for block in blocks(page)
        if block.info.split(" ")[0] in ("console", "bash", "sh", "shell", "")
        for line in commands_in(block.text)
        if (problem := tree.problem(line, whole="..." not in line))
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_a_sentence_exists(page: Path, tree: Tree) -> None:
    spans = re.findall(r"`(medperf [^`]+)`", prose(page))
    problems = [f"{span}: {problem}" for span in spans if (problem := tree.problem(_plain(span), whole=False))]
    assert not problems, "\n".join(problems)


def _plain(span: str) -> str:
    return re.sub(r"\[([^]]*)\](\.\.\.)?", r"\1", " ".join(span.split()))


def test_a_wrong_command_is_noticed(tree: Tree) -> None:
    assert tree.problem("medperf benchmark ls") is None
    assert tree.problem("medperf --docker-host x test run -b 1") is None
    for line in (
        "medperf bench ls",
        "medperf benchmark ls --mines",
        "medperf benchmark view",
        "medperf benchmark view 1 2",
        "medperf --platfrom docker benchmark ls",
        "medperf mlcube submit --name x",
        "medperf mlcube",
        "medperf benchmark ls --format xml",
    ):
        assert tree.problem(line) is not None, line

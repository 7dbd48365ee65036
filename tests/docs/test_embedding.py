"""The page on embedding: every block runs, in order, on a real tutorial, and all of them are typed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from medperf_examples.tutorial import start_tutorial

from .pages import DOCS, ROOT, Block, blocks, rows

PAGE = DOCS / "embedding.md"
BLOCKS = blocks(PAGE, "python")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a tutorial, in a home of its own."""
    for name in [name for name in os.environ if name.startswith("MEDPERF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEDPERF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    start_tutorial(
        tmp_path / "medperf_tutorial", platform="process", base_image=None, home=None, tell=lambda line: None
    )
    return tmp_path


def run(block: Block, namespace: dict[str, object]) -> list[str]:
    """The lines that a block prints; an error names the line of the page."""
    code = compile("\n" * (block.line - 1) + block.text, str(PAGE), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, namespace)
    return printed.getvalue().splitlines()


def test_every_block_runs_and_does_what_the_page_says(folder: Path) -> None:
    namespace: dict[str, object] = {"__name__": "page"}
    printed = {block.text.strip().splitlines()[0]: run(block, namespace) for block in BLOCKS}
    journey, opening, approving, events, options, errors, stopping, two, reading, plugins = printed.values()
    assert "0.9522" in journey[0] and journey[1] == "PENDING"
    assert opening == ["docker my-home"]
    assert approving[0] == "APPROVED" and approving[1].startswith("Nothing was sent") and approving[2] == "denied"
    assert "begins: infer of WDBC neural network" in events and any(line.startswith("[") for line in events)
    assert events[-1].count("False)") == 5
    assert options == [f"{2 << 30} 3600"]
    assert errors[0].endswith(" 5") and errors[1].startswith("NotFoundError ")
    assert len(stopping) == 1 and stopping[0].endswith((" stopped.", " interrupted."))
    assert two == ["modelowner committee", "False"]
    assert reading[0] == "wdbc ['my-modelref-cube']" and reading[1] == "[<Approval.APPROVED: 'APPROVED'>]"
    assert reading[2] == "{'contact': 'alice@example.org'} True"
    assert plugins[0].endswith("nothing runs at this hour.")


def test_the_journeys_of_the_table_are_where_it_says() -> None:
    for row in rows(PAGE, "journey"):
        module = importlib.import_module(row[1])
        assert all(hasattr(module, name.strip("` ")) for name in row[0].split(",")), row


def test_the_journey_takes_ten_lines() -> None:
    body = BLOCKS[0].text.partition("\n\n")[2]
    assert len(body.strip().splitlines()) <= 10


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_all_blocks_together_are_typed(tmp_path: Path) -> None:
    program = tmp_path / "page.py"
    program.write_text("\n".join(block.text for block in BLOCKS))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--cache-dir",
            str(tmp_path / "cache"),
            str(program),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

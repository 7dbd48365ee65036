"""The model owner's tutorial does what it says: every command is typed and its output compared with the page."""

from __future__ import annotations

from pathlib import Path

from tests.engines import require

from .pages import DOCS, Console

PAGE = DOCS / "tutorials" / "model-owner.md"


def test_the_whole_page_on_the_process_runner(tmp_path: Path) -> None:
    assert Console(tmp_path / "work").follow(PAGE) > 30


def test_the_docker_part_on_a_docker_daemon(tmp_path: Path) -> None:
    engine = require("docker")
    assert Console(tmp_path / "work", DOCKER_HOST=engine["DOCKER_HOST"]).follow(PAGE, "console docker") >= 3


def test_the_singularity_part_on_apptainer(tmp_path: Path) -> None:
    require("apptainer")
    assert Console(tmp_path / "work").follow(PAGE, "console singularity") >= 3


def test_both_engines_side_by_side(tmp_path: Path) -> None:
    require("apptainer")
    engine = require("docker")
    assert Console(tmp_path / "work", DOCKER_HOST=engine["DOCKER_HOST"]).follow(PAGE, "console both") >= 2

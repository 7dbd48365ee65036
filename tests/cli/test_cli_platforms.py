"""``medperf test run --platforms``: what it prints where the platforms agree and where they do not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medperf_core.errors import CheckFailedError, UsageError
from tests.engines import require

from .tutorial import Tutorial

RUN = ("test", "run", "-b", "1", "-m", "medperf_tutorial/MODEL/mlcube", "--platforms")


@pytest.fixture(scope="module")
def on_docker(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    """A tutorial on Docker, which is ready for Singularity too."""
    found = Tutorial(tmp_path_factory.mktemp("platforms"))
    found.environment |= {"DOCKER_HOST": require("docker")["DOCKER_HOST"]}
    found.run("--platform", "docker", "tutorial", "start", "model")
    return found


def test_side_by_side(on_docker: Tutorial) -> None:
    require("apptainer")
    done = on_docker.run(*RUN, "docker,singularity")
    assert re.search(r"^ +docker +singularity *$", done.stdout, re.MULTILINE)
    assert re.search(r"^Engine +docker [0-9.]+\S* +apptainer [0-9.]+", done.stdout, re.MULTILINE)
    assert re.search(r"^auc\.value +(0\.\d+) +\1 *$", done.stdout, re.MULTILINE)
    assert "The test passed on docker and singularity, with the same results." in done.stderr
    assert "Next: medperf mlcube package" in done.stderr
    printed = on_docker.json(*RUN, "docker,singularity")
    assert list(printed["reports"]) == ["docker", "singularity"]
    assert printed["differences"] == [] and printed["failures"] == {}


def test_a_model_that_looks_where_it_runs(on_docker: Tutorial) -> None:
    program = on_docker.folder / "medperf_tutorial" / "model_mlp" / "project" / "main.py"
    kept = program.read_text()
    program.write_text(kept.replace("predict(values)", f"predict(values) if {ENGINE} else 0.5"))
    try:
        done = on_docker.run(*RUN, "docker,process", "--allow", "no-isolation", code=CheckFailedError.exit_code)
    finally:
        program.write_text(kept)
    assert re.search(r"results: auc\.value: 0\.\d+ on docker, 0\.5 on process", done.stderr)
    assert "Next:" not in done.stderr


ENGINE = "any('/mlcube_io' in word for word in __import__('sys').argv)"
"""Only a container engine puts a task's volumes there."""


def test_one_platform_is_no_comparison(on_docker: Tutorial) -> None:
    done = on_docker.run(*RUN, "docker", code=UsageError.exit_code)
    assert "two different platforms" in done.stderr


def test_what_is_missing_is_said_before_anything_runs(on_docker: Tutorial, tmp_path: Path) -> None:
    done = on_docker.run("--singularity-program", str(tmp_path / "none"), *RUN, "docker,singularity", code=13)
    assert "On docker:" not in done.stderr and "not installed" in done.stderr

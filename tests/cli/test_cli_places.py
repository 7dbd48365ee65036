"""Folders of any name, and output that has no place to go."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .tutorial import Tutorial

ODD = "a b#c%20ü"
DEMO = Path(__file__).parents[2] / "scripts" / "demo.sh"

pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture(scope="module")
def installed() -> None:
    pytest.importorskip("medperf_server", reason="medperf-server is not installed")
    pytest.importorskip("medperf_examples", reason="medperf-examples is not installed")


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell that has ``medperf`` and this Python as ``python3``."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, more in (("medperf", " -m medperf_core.cli"), ("python3", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{more} "$@"\n')
        (programs / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MEDPERF_", "_MEDPERF"))}
    return {**kept, "PATH": f"{programs}:{os.environ['PATH']}"}


def test_the_demo_runs_in_a_folder_of_any_name(tmp_path: Path, shell: dict[str, str]) -> None:
    scripts = tmp_path / ODD / "scripts"
    scripts.mkdir(parents=True)
    shutil.copy(DEMO, scripts)
    done = subprocess.run(
        ["bash", str(scripts / "demo.sh")],
        env=shell,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "my-modelref-cube  APPROVED" in done.stdout
    first, second = done.stdout.partition("home folder:\n")[2].splitlines()[:2]
    again = subprocess.run(
        ["bash", "-ec", f"{first}\n{second}"], env=shell, capture_output=True, text=True, timeout=60, check=False
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / ODD / ".demo" / "my_model" / "mlcube").is_dir()


def test_what_the_tutorial_prints_can_be_typed_as_it_is(tmp_path: Path, shell: dict[str, str]) -> None:
    (tmp_path / ODD).mkdir()
    tutorial = Tutorial(tmp_path / ODD)
    shown = tutorial.run("tutorial", "start", "model", "--folder", "it's mine").stdout
    text, _, clean = shown.replace("\\\n", "").partition("When you are done: ")
    commands = [line for line in text.splitlines() if line.startswith("  medperf ")]
    assert len(commands) == 9
    for command in [*commands, f"{clean.strip()} --yes"]:
        done = subprocess.run(
            ["bash", "-c", command],
            env={**tutorial.environment, "PATH": shell["PATH"]},
            cwd=tutorial.folder,
            input="y\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert not (tutorial.folder / "it's mine").exists()


PLACES = ["/proc/nowhere/out", "file/out", "x" * 300]
"""Where the super-user cannot make anything either."""


@pytest.mark.parametrize("place", PLACES)
def test_a_tutorial_needs_a_place(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    done = Tutorial(tmp_path).run("tutorial", "start", "model", "--folder", place, code=2)
    assert done.stderr.startswith("Error: ") and place.split("/")[-1] in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "words",
    [
        ("mlcube", "package", "medperf_tutorial/MODEL/mlcube"),
        ("mlcube", "create", "model", "--benchmark", "1"),
        (
            "container",
            "run",
            "--task",
            "infer",
            "--container",
            "medperf_tutorial/MODEL/mlcube",
            "--input",
            "data_path=d",
        ),
    ],
)
def test_output_needs_a_place(tutorial: Tutorial, words: tuple[str, ...], place: str) -> None:
    (tutorial.folder / "file").touch()
    (tutorial.folder / "d").mkdir()
    said = tutorial.run("--quiet", *words, "--output", place, code=2).stderr
    assert said.startswith("Error: ") and len(said.splitlines()) == 1
    assert place in said


@pytest.mark.parametrize("place", ["/proc/nowhere/out.tar.gz", "/proc/out.tar.gz", "file/out.tar.gz"])
def test_an_archive_needs_a_place(tutorial: Tutorial, place: str) -> None:
    (tutorial.folder / "file").touch()
    said = tutorial.run("--quiet", "mlcube", "package", "medperf_tutorial/MODEL/mlcube", "-o", place, code=2).stderr
    assert said.startswith("Error: ") and place in said

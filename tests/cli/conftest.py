"""The command line as users meet it: in this process for speed, and as a process of its own where that matters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from medperf_core.cli.root import make_root

from .tutorial import SCRIPT, Tutorial

Medperf = Callable[..., Result]
Process = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    """This process's environment with a home of its own and no other choices for medperf."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MEDPERF_", "_MEDPERF"))}
    return {**kept, "MEDPERF_HOME": str(home), "COLUMNS": "100"}


@pytest.fixture
def medperf(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Medperf:
    """Runs ``medperf WORDS...`` in this process; without input, standard input is empty and no terminal."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MEDPERF_")]:
        monkeypatch.delenv(name)

    def run(*words: str, input: str = "", **more: str) -> Result:
        return CliRunner(env={**environment, **more}).invoke(make_root(), list(words), input=input)

    return run


@pytest.fixture
def process(environment: Mapping[str, str]) -> Process:
    """Runs ``medperf WORDS...`` as a process of its own."""

    def run(*words: str, input: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "medperf_core.cli", *words],
            input=input,
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def started_tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("medperf_server", reason="medperf-server is not installed")
    pytest.importorskip("medperf_examples", reason="medperf-examples is not installed")
    folder = tmp_path_factory.mktemp("tutorial") / "place"
    folder.mkdir()
    tutorial = Tutorial(folder)
    tutorial.run("tutorial", "start", "model")
    subprocess.run(
        [sys.executable, SCRIPT, "medperf_tutorial/MODEL/mlcube"],
        cwd=folder,
        check=True,
        env=tutorial.environment,
        capture_output=True,
        timeout=120,
    )
    return folder


@pytest.fixture
def tutorial(started_tutorial: Path) -> Iterator[Tutorial]:
    """The tutorial as ``tutorial start`` left it, whatever the test before did. It stays in its place, because its
    profiles and the server hold paths."""
    saved = started_tutorial.parent / "saved"
    if not saved.exists():
        shutil.copytree(started_tutorial, saved, symlinks=True)
    yield Tutorial(started_tutorial)
    shutil.rmtree(started_tutorial)
    shutil.copytree(saved, started_tutorial, symlinks=True)

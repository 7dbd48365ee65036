"""Strict typing, folder by folder: the container projects have modules of the same names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medperf_examples import wdbc

PROJECTS = {name: folder / "project" for name, folder in wdbc.containers().items()}


@pytest.mark.parametrize("name", [*PROJECTS, "training", "package"])
def test_mypy_strict(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("mypy")
    # One cache for all folders halves the time.
    cache = tmp_path_factory.getbasetemp() / "mypy"
    words = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}"]
    if name == "package":
        words += ["-p", "medperf_examples", "--exclude", "wdbc/(containers|training)/"]
        folder = wdbc.root().parent.parent
    else:
        folder = PROJECTS.get(name, wdbc.root() / "training")
        words += [
            "--ignore-missing-imports",
            "--explicit-package-bases",
            *(path.name for path in sorted(Path(folder).glob("*.py"))),
        ]
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "MYPYPATH": str(folder)}
    )
    assert done.returncode == 0, done.stdout + done.stderr

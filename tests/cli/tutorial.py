"""A tutorial's folder, for tests that need a real server with something in it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from medperf_core.cli.root import make_root

from .terminal import Terminal

SCRIPT = Path(__file__).parents[2] / "scripts" / "package-mlcube.py"


class Tutorial:
    """A folder with a tutorial in it, and commands that run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MEDPERF_", "_MEDPERF"))}
        self.environment = {**clean, "MEDPERF_HOME": str(folder / "home"), "COLUMNS": "100"}

    def run(self, *words: str, input: str = "", code: int = 0) -> Result:
        absent = dict.fromkeys(set(os.environ) - set(self.environment))
        with contextlib.chdir(self.folder):
            done = CliRunner(env={**absent, **self.environment}).invoke(make_root(), list(words), input=input)
        assert done.exit_code == code, done.output
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--format", "json").stdout)

    def terminal(self, *words: str) -> Terminal:
        return Terminal([sys.executable, "-m", "medperf_core.cli", *words], self.environment, self.folder)

    @property
    def hosted(self) -> list[str]:
        deploy = (self.folder / "medperf_tutorial" / "MODEL" / "mlcube" / "deploy").as_uri()
        return [
            "--mlcube-file",
            f"{deploy}/mlcube.yaml",
            "--parameters-file",
            f"{deploy}/parameters.yaml",
            "--additional-file",
            f"{deploy}/additional_files.tar.gz",
        ]

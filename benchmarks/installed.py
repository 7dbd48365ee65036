"""A fresh virtual environment with all first-party distributions, installed from wheels as users install them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = (".", "plugins/server", "plugins/storage", "plugins/docker", "plugins/singularity", "examples")


def install(folder: Path) -> Path:
    """Build the wheels, install them into ``folder``/venv, and return the folder of its programs."""
    wheels = folder / "wheels"
    for path in DISTRIBUTIONS:
        _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(ROOT / path))
    _run(sys.executable, "-m", "venv", str(folder / "venv"))
    programs = folder / "venv" / "bin"
    _run(str(programs / "pip"), "install", "--quiet", "--disable-pip-version-check", *map(str, wheels.glob("*.whl")))
    return programs


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

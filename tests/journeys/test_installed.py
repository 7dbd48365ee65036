"""The demo, command by command, from built wheels in a fresh virtual environment."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.installed import ROOT, install
from tests.engines import require


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with everything installed from wheels."""
    try:
        return install(tmp_path_factory.mktemp("installed"))
    except RuntimeError as error:
        if os.environ.get("CI") == "true" or "No matching distribution" not in str(error):
            raise
        pytest.skip("the package index cannot be reached, so that no environment can be made")


def demo(programs: Path, platform: str, place: Path, **environment: str) -> list[str]:
    """Run the demo's script in a copy of the checkout's layout and return its lines."""
    (place / "scripts").mkdir()
    script = place / "scripts" / "demo.sh"
    script.write_text((ROOT / "scripts" / "demo.sh").read_text())
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MEDPERF_", "PYTHON"))}
    variables |= {"PATH": f"{programs}:{os.environ['PATH']}", **environment}
    done = subprocess.run(
        ["bash", str(script), platform],
        env=variables,
        cwd=place,
        check=False,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout.splitlines()


def check(lines: list[str]) -> None:
    assert any(line.startswith("4 ") and "my-modelref-cube" in line for line in lines)
    association = [line for line in lines if "my-modelref-cube" in line and "APPROVED" in line]
    assert association, "the association was not approved"
    assert any(line.startswith("auc.value") and "0.95" in line for line in lines)
    assert any("What to try next" in line for line in lines)


def test_demo_on_process_in_under_two_minutes(programs: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    check(demo(programs, "process", tmp_path))
    assert time.monotonic() - started < 120


def test_demo_on_docker(programs: Path, tmp_path: Path) -> None:
    lines = demo(programs, "docker", tmp_path, DOCKER_HOST=require("docker")["DOCKER_HOST"])
    check(lines)
    assert not any("no-isolation" in line for line in lines)


def test_wheels_carry_their_types_and_no_tests(programs: Path) -> None:
    site_packages = next((programs.parent / "lib").glob("python*/site-packages"))
    for package in ("medperf_core", "medperf_docker", "medperf_storage", "medperf_server", "medperf_examples"):
        assert (site_packages / package / "py.typed").is_file()
    assert not (site_packages / "tests").exists()

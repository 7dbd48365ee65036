"""Two commands at a time in one home do not harm each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .journey import STEPS, Journey


def start(journey: Journey, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "MEDPERF_HOME": str(journey.home)}
    return subprocess.Popen(
        [sys.executable, "-m", "medperf_core.cli", *words], cwd=journey.folder, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_the_same_test_and_the_same_submission_at_the_same_time(tmp_path: Path) -> None:
    journey = Journey(tmp_path / "journey")
    assert journey.medperf(*STEPS[0]).returncode == 0
    tests = [start(journey, *STEPS[1]) for _ in range(3)]
    outputs = [program.communicate()[0] for program in tests]
    assert [program.returncode for program in tests] == [0, 0, 0], outputs
    ran = [output for output in outputs if "infer of WDBC neural network ..." in output]
    assert len(ran) == 1, "a step was done more than once"
    assert journey.medperf(*STEPS[2]).returncode == 0
    submissions = [start(journey, *STEPS[3]) for _ in range(3)]
    outputs = [program.communicate()[0] for program in submissions]
    assert 0 in [program.returncode for program in submissions], outputs
    assert not any("Traceback" in output for output in outputs)
    assert [item["id"] for item in journey.data("mlcube", "ls", "--mine")] == [4]
    assert journey.leftovers() == []

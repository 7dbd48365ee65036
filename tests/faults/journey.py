"""The model owner's journey as commands, one of which is killed; then it goes on as a user would."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medperf_core.plugin.processes import is_orphan, marked
from medperf_core.site.cache import Cache

TUTORIAL = ("tutorial", "start", "model")
HOSTED = "medperf_tutorial/model_mlp/mlcube/deploy"
STEPS: tuple[tuple[str, ...], ...] = (
    TUTORIAL,
    ("test", "run", "--benchmark", "1", "--model", "medperf_tutorial/MODEL/mlcube/mlcube.yaml"),
    ("mlcube", "package", "medperf_tutorial/MODEL/mlcube"),
    ("mlcube", "submit", "--name", "mine", "--mlcube-file", f"{HOSTED}/mlcube.yaml", "--parameters-file",
     f"{HOSTED}/parameters.yaml", "--additional-file", f"{HOSTED}/additional_files.tar.gz", "--yes"),
    ("mlcube", "associate", "--benchmark", "1", "--model_uid", "4", "--yes"),
    ("profile", "activate", "tutorial-committee"),
    ("association", "approve", "--benchmark", "1", "--mlcube", "4", "--yes"),
)  # fmt: skip
TRIES = 3


class Killed(NamedTuple):
    """Which command was killed, and how many seconds after its start."""

    command: tuple[str, ...]
    after: float


class Journey:
    """The journey in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.home = folder / "home"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MEDPERF_")},
            "MEDPERF_HOME": str(self.home),
        }

    def medperf(self, *words: str, kill_after: float | None = None) -> subprocess.CompletedProcess[str]:
        """Run one command; kill it for good after some seconds if it is still there."""
        command = [sys.executable, "-m", "medperf_core.cli", *words]
        process = subprocess.Popen(command, cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
        try:
            output, _ = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            output = ""  # a task that it left running may hold the pipe; its output is nobody's business
        return subprocess.CompletedProcess(command, process.returncode, output)

    def undisturbed(self) -> list[float]:
        """Walk it and return the seconds of each step."""
        seconds = []
        for step in STEPS:
            started = time.monotonic()
            self._must(step)
            seconds.append(time.monotonic() - started)
        return seconds

    def disturbed(self, moment: float, durations: Sequence[float]) -> Killed:
        """Walk it, kill the command that runs at ``moment`` seconds of an undisturbed walk, and go on from there."""
        killed = Killed((), 0.0)
        for step, duration in zip(STEPS, durations, strict=True):
            if not killed.command and moment < duration:
                killed = Killed(step, moment)
                self.medperf(*step, kill_after=moment)
            else:
                moment -= duration
            self._must(step)
        return killed

    def _must(self, step: tuple[str, ...]) -> None:
        """Run a step as a user would: again if it failed, doing first what its message says."""
        for _ in range(TRIES):
            done = self.medperf(*step)
            if done.returncode == 0:
                return
            if step == TUTORIAL and "medperf tutorial clean" in done.stdout:
                self.medperf("tutorial", "clean")
        raise AssertionError(f"medperf {' '.join(step)} did not go on after a kill:\n{done.stdout}")

    def data(self, *words: str) -> Any:
        """What a command prints as JSON."""
        done = subprocess.run([sys.executable, "-m", "medperf_core.cli", *words, "--format", "json"], check=True,
                              cwd=self.folder, env=self._environment, capture_output=True, text=True)  # fmt: skip
        return json.loads(done.stdout)

    def state(self) -> dict[str, Any]:
        """All that counts at the end, without times and random numbers."""
        containers = self.data("mlcube", "ls")
        associations = self.data("association", "ls")
        return {
            "containers": [(item["id"], item["name"], item["state"], item["image_hash"]) for item in containers],
            "models": [(item["id"], item["name"]) for item in self.data("model", "ls")],
            "associations": [(item["model"], item["benchmark"], item["approval_status"]) for item in associations],
            "results": self.data("test", "view")["results"],
        }

    def leftovers(self) -> list[str]:
        """What a killed command left behind that a later one should have removed, and what does not verify."""
        found = [str(path) for path in (self.home / "temp").iterdir()]
        found += [f"process {pid}" for pid, mark in marked() if is_orphan(mark)]
        found += [f"not intact: {entry}" for entry in Cache(self.home / "cache" / "files").verify()]
        found += [str(path) for path in (self.folder / "medperf_tutorial").rglob(".deploy-*")]
        if self.medperf("site", "audit").returncode != 0:
            found.append("the audit log does not verify")
        return found


def moments(seeds: range, total: float) -> list[float]:
    """A moment of the journey for each seed, in seconds."""
    return [random.Random(seed).uniform(0, total) for seed in seeds]

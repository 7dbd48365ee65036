"""One trivial closed task, from ``runner.run()`` to outcome, against the engine's own command with the same flags."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from benchmarks.paired import Ratio, ratio_of
from medperf_core.entities import CommandStyle, TaskSpec
from medperf_core.plugin import PreparedImage, Runner, TaskRequest

BUSYBOX = Path("/bin/busybox")
RUNS = 31


def compare(runner: Runner, prepared: PreparedImage, folder: Path, runs: int = RUNS) -> Ratio:
    """Seconds of both ways; the image needs no more than ``/bin/sh``."""
    task = TaskSpec("infer", (), CommandStyle.FIXED, entrypoint=("/bin/sh",), command=("-c", "echo done"))
    request = TaskRequest(task, (), folder / "log")
    ours, peer = [], []
    for _ in range(runs + 2):
        started = time.perf_counter()
        outcome = runner.run(prepared, request)
        ours.append(time.perf_counter() - started)
        command = runner.command_line(prepared, request)
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peer.append(time.perf_counter() - started)
        if outcome.tail != ("done",) or "done\n" not in done.stdout:
            raise RuntimeError(f"the task did not do its work: {outcome.tail} {done.stdout!r}")
    return ratio_of(list(zip(ours[2:], peer[2:], strict=True)))

"""One trivial closed task on Apptainer or Singularity, and preparing an image for the second time."""

from __future__ import annotations

import shutil
from pathlib import Path

from medperf_singularity.plugin import SingularitySettings
from medperf_singularity.runner import SingularityRunner

from benchmarks.closed_task import BUSYBOX, compare
from benchmarks.paired import Ratio
from medperf_core.entities import ImageSource, SourceKind
from medperf_core.plugin import BackendContext, Event, StepStarted


def measure(folder: Path) -> Ratio:
    """Seconds of both ways; needs the engine and Debian's busybox-static."""
    root = folder / "rootfs"
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin" / "sh")
    source = ImageSource(SourceKind.SIF, str(root))
    steps: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, StepStarted):
            steps.append(event.what)

    runner = SingularityRunner(SingularitySettings(), BackendContext(folder / "cache", folder / "temp", emit=note))
    runner.prepare(source)
    steps.clear()
    prepared = runner.prepare(source)
    if any("Convert" in step for step in steps):
        raise RuntimeError(f"the image was converted again: {steps}")
    return compare(runner, prepared, folder)

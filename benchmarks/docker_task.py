"""One trivial closed task on Docker, from ``runner.run()`` to outcome, against ``docker run`` with the same flags."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

from medperf_docker.plugin import DockerSettings
from medperf_docker.runner import DockerRunner

from benchmarks.paired import Ratio, ratio_of
from medperf_core.entities import CommandStyle, ImageSource, SourceKind, TaskSpec
from medperf_core.plugin import BackendContext, TaskRequest

IMAGE = "localhost/medperf-benchmark/busybox:1"
BUSYBOX = Path("/bin/busybox")
RUNS = 15


def measure(folder: Path, runs: int = RUNS) -> Ratio:
    """Seconds of both ways; needs DOCKER_HOST, the docker command and Debian's busybox-static."""
    from docker import APIClient

    with APIClient(base_url=os.environ["DOCKER_HOST"], version="auto") as client:
        _import(client)
        try:
            return _compare(folder, runs)
        finally:
            client.remove_image(IMAGE, force=True)


def _import(client: Any) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(BUSYBOX, "bin/sh")
    answer = client.import_image_from_data(data.getvalue())
    client.tag(json.loads(answer.splitlines()[-1])["status"], *IMAGE.rsplit(":", 1))


def _compare(folder: Path, runs: int) -> Ratio:
    cache, temp = folder / "cache", folder / "temp"
    cache.mkdir()
    temp.mkdir()
    runner = DockerRunner(DockerSettings(), BackendContext(cache, temp))
    prepared = runner.prepare(ImageSource(SourceKind.REGISTRY, IMAGE))
    task = TaskSpec("infer", (), CommandStyle.FIXED, entrypoint=("/bin/sh",), command=("-c", "echo done"))
    request = TaskRequest(task, (), folder / "log")
    ours, peer = [], []
    for _ in range(runs + 2):
        started = time.perf_counter()
        outcome = runner.run(prepared, request)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        done = subprocess.run(runner.command_line(prepared, request), capture_output=True, text=True, check=True)
        peer.append(time.perf_counter() - started)
        if outcome.tail != ("done",) or done.stdout != "done\n":
            raise RuntimeError(f"the task did not do its work: {outcome.tail} {done.stdout!r}")
    return ratio_of(list(zip(ours[2:], peer[2:], strict=True)))

"""One trivial closed task on Docker."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

from medperf_docker.plugin import DockerSettings
from medperf_docker.runner import DockerRunner

from benchmarks.closed_task import BUSYBOX, compare
from benchmarks.paired import Ratio
from medperf_core.entities import ImageSource, SourceKind
from medperf_core.plugin import BackendContext

IMAGE = "localhost/medperf-benchmark/busybox:1"


def measure(folder: Path) -> Ratio:
    """Seconds of both ways; needs DOCKER_HOST, the docker command and Debian's busybox-static."""
    from docker import APIClient

    with APIClient(base_url=os.environ["DOCKER_HOST"], version="auto") as client:
        _import(client)
        try:
            runner = DockerRunner(DockerSettings(), BackendContext(folder, folder))
            return compare(runner, runner.prepare(ImageSource(SourceKind.REGISTRY, IMAGE)), folder)
        finally:
            client.remove_image(IMAGE, force=True)


def _import(client: Any) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(BUSYBOX, "bin/sh")
    answer = client.import_image_from_data(data.getvalue())
    client.tag(json.loads(answer.splitlines()[-1])["status"], *IMAGE.rsplit(":", 1))

"""A client that is killed leaves a container; the next one finds and removes it, and no other's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from medperf_docker.plugin import DockerSettings
from medperf_docker.runner import DockerRunner

from medperf_core.entities import ImageSource, SourceKind
from medperf_core.plugin import BackendContext

CLIENT = """
import sys
from pathlib import Path
from medperf_core.entities import *
from medperf_core.plugin import *
from medperf_docker.plugin import DockerSettings, make
home = Path(sys.argv[1])
context = BackendContext(cache_dir=home, temp_dir=home, emit=lambda event: print(event, flush=True))
runner = make(DockerSettings(host=sys.argv[3]), context)
image = runner.prepare(ImageSource("registry", sys.argv[2]))
task = TaskSpec(name="infer", volumes=(), style="fixed", command=("/bin/sh", "-c", "echo up; sleep 300"))
print(runner.run(image, TaskRequest(task=task, mounts=(), log=home / "log")))
"""


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_else(
    client: Any, docker_host: str, shell_image: str, tmp_path: Path
) -> None:
    def containers() -> list[str]:
        found = client.containers(all=True, filters={"label": "medperf=1", "ancestor": shell_image})
        return [item["Id"] for item in found]

    def next_run() -> None:
        runner = DockerRunner(DockerSettings(host=docker_host), BackendContext(tmp_path / "cache", tmp_path / "temp"))
        runner.prepare(ImageSource(SourceKind.REGISTRY, shell_image))

    words = [sys.executable, "-c", CLIENT, str(tmp_path), shell_image, docker_host]
    program = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert any("up" in line for line in iter(program.stdout.readline, "")), "the task did not start"
    (running,) = containers()
    next_run()
    assert containers() == [running], "the container of a program that still runs was removed"
    program.kill()
    program.wait()
    assert containers() == [running]
    next_run()
    assert containers() == []

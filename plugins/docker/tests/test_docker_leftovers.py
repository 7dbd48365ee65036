"""A client that is killed leaves a container or an image; the next one finds and removes it, and no other's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from medperf_docker.plugin import DockerSettings
from medperf_docker.runner import DockerRunner

from medperf_core.entities import ImageSource, SourceKind
from medperf_core.errors import MedperfError
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


LOADING = """
import sys, time
from pathlib import Path
from medperf_core.entities import *
from medperf_core.plugin import *
from medperf_docker import images
from medperf_docker.plugin import DockerSettings, make
home = Path(sys.argv[1])
images.keep = lambda client, image: (print("loaded", image["Id"], flush=True), time.sleep(300))
runner = make(DockerSettings(host=sys.argv[3]), BackendContext(cache_dir=home, temp_dir=home))
runner.prepare(ImageSource("archive", sys.argv[2]))
"""


def test_an_image_that_a_killed_run_had_loaded_is_removed(
    client: Any, docker_host: str, make_image: Callable[..., str], tmp_path: Path
) -> None:
    name, archive = make_image(), tmp_path / "image.tar"
    archive.write_bytes(b"".join(client.get_image(name)))
    identifier = client.inspect_image(name)["Id"]
    client.remove_image(identifier, force=True)

    def images() -> list[str]:
        return [item["Id"] for item in client.images() if item["Id"] == identifier]

    def next_run() -> DockerRunner:
        runner = DockerRunner(DockerSettings(host=docker_host), BackendContext(tmp_path / "cache", tmp_path / "temp"))
        with pytest.raises(MedperfError):
            runner.prepare(ImageSource(SourceKind.ARCHIVE, str(tmp_path / "none.tar")))
        return runner

    words = [sys.executable, "-c", LOADING, str(tmp_path), str(archive), docker_host]
    program = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdout.readline().split() == ["loaded", identifier]
    next_run()
    assert images() == [identifier], "the image of a program that still runs was removed"
    program.kill()
    program.wait()
    runner = next_run()
    assert images() == []
    prepared = runner.prepare(ImageSource(SourceKind.ARCHIVE, str(archive)))
    assert (images(), prepared.reference) == ([identifier], identifier)
    [found] = [item for item in client.images() if item["Id"] == identifier]
    assert [tag.rpartition(":")[0] for tag in found["RepoTags"]] == ["localhost/medperf"]
    assert "build-" not in found["RepoTags"][0], "a finished image would be removed as a leftover"
    client.remove_image(identifier, force=True)

"""A daemon that is killed in the middle of a task, and comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from docker import APIClient
from medperf_docker.plugin import DockerSettings
from medperf_docker.runner import DockerRunner

from medperf_core.entities import CommandStyle, TaskSpec
from medperf_core.entities.image import ImageSource, SourceKind
from medperf_core.plugin import BackendContext, Notice, TaskRequest
from tests.engines import require
from tests.engines.docker import BRIDGE, Docker
from tests.engines.probes import docker_answers

CLIENT = """
import sys
from pathlib import Path
from medperf_core.entities import *
from medperf_core.errors import ExecutionError
from medperf_core.plugin import *
from medperf_docker.plugin import DockerSettings, make
home = Path(sys.argv[1])
def tell(event):
    print(event, flush=True)
runner = make(DockerSettings(host=sys.argv[3]), BackendContext(cache_dir=home, temp_dir=home, emit=tell))
image = runner.prepare(ImageSource("registry", sys.argv[2]))
task = TaskSpec(name="infer", volumes=(), style="fixed", command=("/bin/sh", "-c", "echo up; sleep 300"))
try:
    runner.run(image, TaskRequest(task=task, mounts=(), log=home / "log"))
except ExecutionError as error:
    print("ERROR", " ".join(str(error).split()), flush=True)
"""


@attrs.define(eq=False)
class PrivateDocker(Docker):
    """A daemon of this test alone, which it may kill."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        return self.folder

    def begin(self) -> None:
        launch = self.prepare({})
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(launch.argv, stdout=log, stderr=log, env=launch.env, cwd="/")
        deadline = time.monotonic() + 30
        while not docker_answers(self.socket):
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def end(self, sign: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(sign)
        self.process.wait(30)


@pytest.fixture
def private() -> Iterator[PrivateDocker]:
    require("docker")
    if os.geteuid() != 0 or BRIDGE.exists():
        pytest.skip("a second daemon needs root and a machine without a bridge of Docker's")
    with tempfile.TemporaryDirectory(prefix="medperf-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        found = PrivateDocker(Path(name))
        try:
            found.begin()
            yield found
        finally:
            if found.process is not None and found.process.poll() is None:
                found.end(signal.SIGTERM)
            found.clear()


def test_a_daemon_that_vanishes_is_told_and_nothing_stays_when_it_is_back(
    private: PrivateDocker, new_root_file_system: Callable[[], bytes], tmp_path: Path
) -> None:
    with APIClient(base_url=private.socket, version="auto", timeout=60) as client:
        answer = client.import_image_from_data(new_root_file_system())
        client.tag(json.loads(answer.splitlines()[-1])["status"], "localhost/medperf-test/vanished", "1")
    image = "localhost/medperf-test/vanished:1"
    words = [sys.executable, "-c", CLIENT, str(tmp_path / "one"), image, private.socket]
    (tmp_path / "one").mkdir()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert any("'up'" in line for line in iter(program.stdout.readline, "")), "the task did not start"
        private.end(signal.SIGKILL)
        killed = time.monotonic()
        said = program.stdout.read()
    assert program.returncode == 0
    assert time.monotonic() - killed < 40
    assert "ERROR Docker could not run the task in the container medperf-infer-" in said
    assert "docker rm --force" in said

    private.begin()

    def left(client: Any) -> list[Any]:
        return list(client.containers(all=True, filters={"label": "medperf=1"}))

    with APIClient(base_url=private.socket, version="auto", timeout=60) as client:
        assert len(left(client)) == 1
        events: list[Any] = []
        context = BackendContext(tmp_path / "cache", tmp_path / "temp", emit=events.append)
        runner = DockerRunner(DockerSettings(host=private.socket), context)
        prepared = runner.prepare(ImageSource(SourceKind.REGISTRY, image))
        task = TaskSpec("infer", (), CommandStyle.FIXED, entrypoint=("/bin/sh", "-c", "echo again"))
        outcome = runner.run(prepared, TaskRequest(task, (), tmp_path / "log"))
        assert outcome.tail == ("again",)
        assert any(isinstance(event, Notice) and "Removed 1 container" in event.message for event in events)
        assert left(client) == []

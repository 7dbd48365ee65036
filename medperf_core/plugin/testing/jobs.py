"""Small jobs for the kit of executors: programs of a source tree, for the ``process`` runner."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.entities.roles import VolumeKind
from medperf_core.entities.spec import CommandStyle, TaskSpec
from medperf_core.plugin.context import BackendContext, CancelToken
from medperf_core.plugin.descriptors import ExecutorPlugin
from medperf_core.plugin.digest import source_digest
from medperf_core.plugin.events import Event
from medperf_core.plugin.executor import Executor, TaskJob
from medperf_core.plugin.manager import PluginManager
from medperf_core.plugin.runner import Mount, Resources, TaskOutcome, TaskRequest
from medperf_core.plugin.testing.common import PATIENCE
from medperf_core.plugin.worker import run_job

TALKING = """
import os, sys
seen, asked = open(sys.argv[1]).read(), os.environ["ASKED"]
print("seen", seen, flush=True)
print("asked for", asked, flush=True)
open(sys.argv[2] + "/result.txt", "w").write(f"{seen} and {asked}")
print("done", flush=True)
"""
FAILING = "print('no such patient', flush=True)\nraise SystemExit(3)\n"
BLOCKED = """
import os, sys, time
print("up", flush=True)
left = float(os.environ["PATIENCE"])
while not os.path.exists(os.path.dirname(sys.argv[1]) + "/go"):
    time.sleep(0.02)
    left -= 0.02
    if left < 0:
        raise SystemExit(9)
print("unblocked", flush=True)
"""
ENDLESS = """
import os, subprocess, sys, time
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleeper, start_new_session=True)
with open(sys.argv[2] + "/processes.new", "w") as note:
    note.write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[2] + "/processes.new", sys.argv[2] + "/processes")
time.sleep(600)
"""


class Jobs:
    """Makes jobs below a shared folder, and looks at what they did."""

    def __init__(self, plugin: ExecutorPlugin, settings: Any, shared: Path, patience: float) -> None:
        self.plugin = plugin
        self._patience = patience
        self._settings = settings
        self._shared = shared
        self._plugins = PluginManager.discover()
        self._results, self._inputs = shared / "results", shared / "inputs"
        self.temp, self._cache = shared / "site" / "temp", shared / "site" / "cache"
        for folder in (self._results, self._inputs, self.temp, self._cache):
            folder.mkdir(parents=True)
        (self._inputs / "input.txt").write_text("42")
        self._context = BackendContext(cache_dir=self._cache, temp_dir=self.temp)

    def _run(self, job: TaskJob, emit: Any, cancel: CancelToken) -> TaskOutcome:
        return run_job(job, self._plugins, attrs.evolve(self._context, emit=emit, cancel=cancel))

    def executor(self) -> Executor:
        """The executor, made anew as another start of the program would."""
        return self.plugin.make(self._settings, self._context, self._run)

    def run_here(self, job: TaskJob) -> tuple[list[Event], TaskOutcome]:
        """What the job does when no executor takes part."""
        events: list[Event] = []
        outcome = self._run(job, events.append, CancelToken())
        return events, outcome

    def make(self, program: str) -> TaskJob:
        """A job that runs a Python program; its arguments are an input file and an output folder."""
        name = f"kit-{uuid.uuid4().hex}"
        project = self._shared / "projects" / name
        project.mkdir(parents=True)
        (project / "main.py").write_text(program)
        task = TaskSpec(
            name="infer",
            volumes=(),
            style=CommandStyle.MLCUBE,
            process_command=(sys.executable, "main.py", "{data}", "{output}"),
        )
        mounts = (
            Mount("data", self._inputs / "input.txt", VolumeKind.FILE, writable=False),
            Mount("output", self._results, VolumeKind.DIRECTORY, writable=True),
        )
        return TaskJob(
            id=name,
            runner="process",
            settings={},
            source=ImageSource(SourceKind.TREE, str(project)),
            expected=(ImageIdentity(IdentityKind.SOURCE, source_digest(project)),),
            request=TaskRequest(
                task=task,
                mounts=mounts,
                log=self._shared / f"{name}.log",
                resources=Resources(processes=200),
                environment={"ASKED": "7", "PATIENCE": str(self._patience)},
                time_limit=3 * PATIENCE,
            ),
            waivers=("no-isolation",),
        )

    @property
    def output(self) -> Path:
        """What the talking program writes."""
        return self._results / "result.txt"

    def clear_output(self) -> None:
        self.output.unlink()

    def unblock(self) -> None:
        """Let the blocked program go on."""
        (self._inputs / "go").touch()

    def wait_for_processes(self) -> list[int]:
        """The processes of the endless program, once they are there."""
        note = self._results / "processes"
        token = CancelToken()
        for _ in range(int(PATIENCE / 0.02)):
            if note.exists():
                return [int(word) for word in note.read_text().split()]
            token.wait(0.02)
        pytest.fail("the job was not started")

    def alive(self, processes: list[int]) -> list[int]:
        """Those of the processes that still run."""
        return [pid for pid in processes if _runs(pid)]

    def end(self) -> None:
        """Leave no process behind, whatever became of the test."""
        self.unblock()
        note = self._results / "processes"
        for pid in self.alive([int(word) for word in note.read_text().split()]) if note.exists() else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

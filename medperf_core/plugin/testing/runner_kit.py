"""What the tests of ``RunnerContract`` work with: a runner with folders of its own, tasks for the probe, reports."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from medperf_core.entities.image import ImageSource
from medperf_core.entities.roles import VolumeKind
from medperf_core.entities.spec import CommandStyle, TaskSpec, VolumeSpec
from medperf_core.plugin import (
    BackendContext,
    CancelToken,
    Capabilities,
    Condition,
    Enforcement,
    Event,
    Guarantee,
    Limit,
    Mount,
    PreparedImage,
    Runner,
    TaskLog,
    TaskOutcome,
    TaskRequest,
)
from medperf_core.plugin.testing.probe_image import Probe
from medperf_core.plugin.testing.promises import not_promised

MakeRunner = Callable[[BackendContext], Runner]
MakeSource = Callable[[Probe], ImageSource]
Traces = Callable[[], Collection[str]]


class Heard:
    """Listens to a runner's events; ``when_ready`` is called when the task says that it is ready."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ready = threading.Event()
        self.when_ready: Callable[[], object] = lambda: None

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, TaskLog) and event.line == "ready" and not self.ready.is_set():
            self.ready.set()
            self.when_ready()

    @property
    def lines(self) -> tuple[TaskLog, ...]:
        """The lines that tasks were heard to write."""
        return tuple(event for event in self.events if isinstance(event, TaskLog))


@attrs.define
class Kept:
    """What the tests of one class share: the runner's folders, and the image once it is prepared."""

    cache: Path
    temp: Path
    prepared: PreparedImage | None = None
    source: ImageSource | None = None
    usual: dict[str, Ran] = attrs.field(factory=dict)


@attrs.frozen
class Volume:
    """A volume of one task: where it is on this machine and, for runners with images, in the container."""

    label: str
    path: Path
    writable: bool = False
    kind: VolumeKind = VolumeKind.DIRECTORY
    place: str = ""

    @property
    def spec(self) -> VolumeSpec:
        """As the manifest says it."""
        return VolumeSpec(
            self.label,
            self.writable,
            self.kind,
            self.label,
            mount_path=self.place or f"/mlcommons/volumes/{self.label}",
        )

    @property
    def mount(self) -> Mount:
        """As the core asks for it."""
        return Mount(self.label, self.path, self.kind, self.writable)


@attrs.frozen
class Ran:
    """A task that was run: its outcome, what the probe reported, its output folder, log file and lines as told."""

    outcome: TaskOutcome
    report: dict[str, Any]
    out: Path
    log: Path
    told: tuple[TaskLog, ...]


class RunnerKit:
    """One test's runner and folders.

    Attributes:
        probe: the image to run.
        heard: what the runner told.
        token: text in the arguments of every task, to find its processes by.
    """

    def __init__(
        self, make: MakeRunner, source: MakeSource, traces: Traces, probe: Probe, kept: Kept, folder: Path
    ) -> None:
        self._make, self._source, self._traces, self._kept = make, source, traces, kept
        self.probe, self.folder = probe, folder
        self.heard, self.cancel = Heard(), CancelToken()
        self.token = f"medperf-probe-{uuid.uuid4().hex}"
        self.temp = kept.temp
        self._number = 0
        for path in self._temporary():  # another test told that it was left
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._before = set(traces())

    def context(self, **changes: Any) -> BackendContext:
        """A site's context for the runner."""
        fields = {"cache_dir": self._kept.cache, "temp_dir": self.temp, "emit": self.heard, "cancel": self.cancel}
        return BackendContext(**{**fields, **changes})

    def runner(self, **changes: Any) -> Runner:
        """A new runner."""
        return self._make(self.context(**changes))

    @property
    def source(self) -> ImageSource:
        """The probe's image in the form that this runner takes; made once for all tests of a class."""
        if self._kept.source is None:
            self._kept.source = self._source(self.probe)
        return self._kept.source

    @property
    def prepared(self) -> PreparedImage:
        """The probe's image, prepared; once for all tests of a class."""
        if self._kept.prepared is None:
            self._kept.prepared = self.runner().prepare(self.source)
            self._before |= set(self._traces())  # the image stays
        return self._kept.prepared

    def another(self, mark: str) -> tuple[Probe, ImageSource]:
        """A probe with other identities, in the form that this runner takes."""
        folder = self.folder / f"probe-{mark}"
        folder.mkdir()
        probe = Probe(folder, mark, self.probe)
        return probe, self._source(probe)

    @property
    def capabilities(self) -> Capabilities:
        """What the runner says of itself."""
        return self.runner().capabilities()

    def needs(self, *promises: Guarantee | Limit | Condition) -> None:
        """Skip the running test unless all of these are promised."""
        found = self.capabilities
        held = {limit for limit, who in found.limits.items() if who is not Enforcement.NONE}
        for promise in promises:
            if promise not in {*found.guarantees, *held, *found.conditions}:
                self.skip(promise.value)

    def skip(self, what: str) -> None:
        """Skip the running test, because the runner does not promise ``what``."""
        not_promised(self.capabilities.engine.split(" ")[0], what)

    def file(self, name: str, content: str = "content") -> Path:
        """A file that everybody may read and write, in folders that everybody may enter and change."""
        path = self.folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        for each in (path, *path.relative_to(self.folder).parents):
            place = self.folder / each
            if place != self.folder:
                place.chmod(0o666 if place == path else 0o777)
        return path

    def new_folder(self, name: str) -> Path:
        """An empty folder."""
        path = self.folder / "data" / name
        path.mkdir(parents=True)
        return path

    def request(
        self,
        verb: str,
        *words: str,
        volumes: Sequence[Volume] = (),
        style: CommandStyle = CommandStyle.FIXED,
        variables: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> TaskRequest:
        """A task for the probe; ``words`` are its arguments, ``variables`` are the manifest's."""
        self._number += 1
        out = self.folder / f"out-{self._number}"
        out.mkdir()
        volumes = (*volumes, Volume("out", out, writable=True))
        places = [f"--{volume.label}={volume.spec.mount_path}" for volume in volumes]
        holders = [f"--{volume.label}={{{volume.label}}}" for volume in volumes]
        mark = f"--token={self.token}"
        task = TaskSpec(
            name=verb,
            volumes=tuple(volume.spec for volume in volumes),
            style=style,
            command=(*places, mark, verb, *words) if style is CommandStyle.FIXED else (),
            environment=variables or {},
            process_command=(sys.executable, "-I", "probe.py", *holders, mark, verb, *words),
        )
        log = self.folder / "logs" / f"{self._number}.log"
        return TaskRequest(task, tuple(volume.mount for volume in volumes), log, **changes)

    def do(self, request: TaskRequest, runner: Runner | None = None) -> Ran:
        """Run a task."""
        outcome = (runner or self.runner()).run(self.prepared, request)
        out = request.mount("out").path
        report = {}
        with suppress(FileNotFoundError):
            report = json.loads((out / "report.json").read_text())
        return Ran(outcome, report, out, request.log, self.heard.lines)

    def run(self, verb: str, *words: str, **changes: Any) -> Ran:
        """Run a task of the probe; see ``request``."""
        return self.do(self.request(verb, *words, **changes))

    def report(self, verb: str, *words: str, **changes: Any) -> dict[str, Any]:
        """What the probe reported of a task that has to succeed."""
        ran = self.run(verb, *words, **changes)
        assert ran.outcome.exit_code == 0, f"the probe failed: {ran.outcome.tail}"
        assert ran.report, "the probe's report did not arrive in its output folder"
        return ran.report

    def usual(self, verb: str) -> Ran:
        """A successful task without anything special; run once for all tests of a class."""
        if verb not in self._kept.usual:
            ran = self.run(verb)
            assert ran.outcome.exit_code == 0, f"the probe failed: {ran.outcome.tail}"
            self._kept.usual[verb] = ran
        return self._kept.usual[verb]

    def left(self) -> list[str]:
        """What is left of this test's tasks: processes, temporary files, and what ``traces`` sees more than before."""
        found = [f"process {pid}" for pid in self.processes()]
        found += [f"temporary {path.name}" for path in self._temporary()]
        return found + sorted(set(self._traces()) - self._before)

    def _temporary(self) -> list[Path]:
        # an empty folder of the runner's own may stay for the next task
        return [path for path in self.temp.iterdir() if not path.is_dir() or any(path.iterdir())]

    def processes(self) -> Iterator[int]:
        """This machine's processes of this test's tasks, and the engine's that started them."""
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if (
                    entry.name.isdigit()
                    and int(entry.name) != os.getpid()
                    and self.token.encode() in (entry / "cmdline").read_bytes()
                ):
                    yield int(entry.name)


def entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """All that is in a task's output folder, and the folder itself; folders that the task shut are opened."""
    for place, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            path = Path(place, name)
            status = path.lstat()
            yield name, status
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                path.chmod(0o700)


@contextmanager
def listening(name: str) -> Iterator[tuple[int, list[str]]]:
    """A TCP listener on loopback and an abstract Unix one called ``name``: the port, and who came."""
    import socket

    came: list[str] = []
    sockets = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
    sockets[1].bind("\0" + name)
    sockets[1].listen()

    def answer(listener: socket.socket) -> None:
        listener.settimeout(0.1)
        while listener.fileno() >= 0:
            with suppress(OSError):
                listener.accept()[0].close()
                came.append(listener.family.name)

    threads = [threading.Thread(target=answer, args=(each,), daemon=True) for each in sockets]
    for thread in threads:
        thread.start()
    try:
        yield sockets[0].getsockname()[1], came
    finally:
        for each in sockets:
            each.close()
        for thread in threads:
            thread.join()

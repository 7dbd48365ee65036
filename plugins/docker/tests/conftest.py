"""A real daemon, images of Debian's static busybox, and a runner with a folder of its own."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from docker import APIClient
from docker.errors import APIError
from medperf_docker.plugin import DockerSettings
from medperf_docker.runner import DockerRunner

from medperf_core.entities import CommandStyle, IdentityKind, ImageIdentity, TaskSpec, VolumeKind, VolumeSpec
from medperf_core.entities.image import ImageSource, SourceKind
from medperf_core.plugin import BackendContext, CancelToken, Event, Mount, PreparedImage, TaskRequest
from tests.engines import require

BUSYBOX = Path("/bin/busybox")


def busybox_tar() -> bytes:
    """A root file system of nothing but busybox, different each time."""
    if not BUSYBOX.exists() or b"/lib64/ld-linux" in BUSYBOX.read_bytes():
        words = "busybox-static is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(words)
        pytest.skip(words)
    names = subprocess.check_output([BUSYBOX, "--list"], text=True).split()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for folder in ("bin", "etc", "tmp", "proc", "sys", "dev", "mnt", "data"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add(BUSYBOX, "bin/busybox")
        for name in names:
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        mark = secrets.token_bytes(16)
        entry = tarfile.TarInfo("data/mark")
        entry.size = len(mark)
        tar.addfile(entry, io.BytesIO(mark))
    return data.getvalue()


@pytest.fixture(scope="session")
def new_root_file_system() -> Callable[[], bytes]:
    return busybox_tar


@pytest.fixture(scope="session")
def docker_host() -> str:
    """The daemon that the suite started; MEDPERF_TEST_DOCKER_HOST names another kind of engine to test with."""
    return os.environ.get("MEDPERF_TEST_DOCKER_HOST") or require("docker")["DOCKER_HOST"]


@pytest.fixture(scope="session")
def client(docker_host: str) -> Iterator[Any]:
    with APIClient(base_url=docker_host, version="auto", timeout=120) as found:
        yield found


@pytest.fixture(scope="session")
def make_image(client: Any) -> Iterator[Callable[..., str]]:
    """Makes a tagged image with these Dockerfile instructions; its name. All are removed at the end."""
    names = []
    data = busybox_tar()

    def make(*changes: str, fresh: bool = True) -> str:
        name = f"localhost/medperf-test/{secrets.token_hex(6)}:1"
        answer = client.import_image_from_data(busybox_tar() if fresh else data, changes=list(changes) or None)
        identifier = json.loads(answer.splitlines()[-1])["status"]
        client.tag(identifier, *name.split(":"))
        names.append(name)
        return name

    yield make
    for name in names:
        forget(client, name)


def forget(client: Any, name: str) -> None:
    """Remove an image with all its names."""
    try:
        client.remove_image(client.inspect_image(name)["Id"], force=True)
    except APIError:
        pass


@pytest.fixture(scope="session")
def shell_image(make_image: Callable[..., str]) -> str:
    return make_image()


@attrs.define
class Site:
    """A runner, what it told, and the tasks of one test."""

    folder: Path
    host: str
    client: Any
    image: str
    events: list[Event] = attrs.field(factory=list)
    cancel: CancelToken = attrs.field(factory=CancelToken)

    def context(self, **changes: Any) -> BackendContext:
        return BackendContext(
            self.folder / "cache", self.folder / "tmp", emit=self.events.append, cancel=self.cancel, **changes
        )

    def runner(self, *, offline: bool = False, **settings: Any) -> DockerRunner:
        return DockerRunner(DockerSettings(**{"host": self.host, **settings}), self.context(offline=offline))

    @property
    def prepared(self) -> PreparedImage:
        return self.runner().prepare(ImageSource(SourceKind.REGISTRY, self.image))

    def path(self, name: str, content: str | None = None) -> Path:
        """A file with this content, or an empty folder."""
        path = self.folder / name
        if content is None:
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return path

    def request(
        self, script: str, *mounts: Mount, places: Mapping[str, str] | None = None, **changes: Any
    ) -> TaskRequest:
        """A task that runs a shell script; volumes are mounted at ``/<label>`` or where ``places`` says."""
        task = changes.pop("task", None) or TaskSpec(
            "infer",
            tuple(
                VolumeSpec(
                    mount.label,
                    mount.writable,
                    mount.kind,
                    mount.label,
                    mount_path=(places or {}).get(mount.label, f"/{mount.label}"),
                )
                for mount in mounts
            ),
            CommandStyle.FIXED,
            entrypoint=("/bin/sh", "-c", script),
        )
        return TaskRequest(task, mounts, self.folder / "logs" / "task.log", **changes)

    def run(self, script: str, *mounts: Mount, settings: Mapping[str, Any] | None = None, **changes: Any) -> Any:
        return self.runner(**(settings or {})).run(self.prepared, self.request(script, *mounts, **changes))

    @staticmethod
    def folder_mount(label: str, path: Path, *, writable: bool = False) -> Mount:
        return Mount(label, path, VolumeKind.DIRECTORY, writable)

    @staticmethod
    def file_mount(label: str, path: Path, *, writable: bool = False) -> Mount:
        return Mount(label, path, VolumeKind.FILE, writable)

    def id_of(self, name: str) -> str:
        return str(self.client.inspect_image(name)["Id"])

    def config(self, name: str) -> ImageIdentity:
        return ImageIdentity(IdentityKind.CONFIG, self.id_of(name))

    def containers(self) -> list[Any]:
        """What is left of the containers of this test's image."""
        return list(self.client.containers(all=True, filters={"ancestor": self.image}))


@pytest.fixture
def site(tmp_path: Path, docker_host: str, client: Any, shell_image: str) -> Iterator[Site]:
    found = Site(tmp_path, docker_host, client, shell_image)
    yield found
    assert found.containers() == []


@pytest.fixture
def own_image(make_image: Callable[..., str]) -> str:
    """An image that only this test has."""
    return make_image()

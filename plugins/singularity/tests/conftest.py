"""The installed Apptainer, images made by hand of Debian's static busybox, and a context with a folder of its own."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pwd
import secrets
import shutil
import subprocess
import tarfile
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import requests
import zstandard
from medperf_singularity import execute
from medperf_singularity.config import ImageConfig
from medperf_singularity.engine import Engine, find_engine
from medperf_singularity.plugin import SingularitySettings
from medperf_singularity.runner import SingularityRunner

from medperf_core.entities import (
    CommandStyle,
    IdentityKind,
    ImageIdentity,
    ImageSource,
    SourceKind,
    TaskSpec,
    VolumeKind,
    VolumeSpec,
)
from medperf_core.errors import ExecutionError
from medperf_core.plugin import BackendContext, CancelToken, Event, Mount, PreparedImage, TaskOutcome, TaskRequest

BUSYBOX = Path("/bin/busybox")
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
DEFAULTS: Mapping[str, Any] = {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "GREETING=good day"], "WorkingDir": "/data"}


def missing(words: str) -> Any:
    if os.environ.get("CI") == "true":
        pytest.fail(words)
    pytest.skip(words)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def file_tar(files: Mapping[str, bytes]) -> bytes:
    """A tar archive with these files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()


@pytest.fixture(scope="session")
def busybox_layer() -> bytes:
    """A root file system of nothing but busybox, as a tar archive."""
    if not BUSYBOX.exists() or b"/lib64/ld-linux" in BUSYBOX.read_bytes():
        missing("busybox-static is not installed")
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
    return data.getvalue()


@attrs.frozen
class OciImage:
    """An image made by hand: its configuration and its layers, as they are packed and as they unpack."""

    config: bytes
    layers: tuple[bytes, ...]

    @property
    def config_identity(self) -> ImageIdentity:
        return ImageIdentity(IdentityKind.CONFIG, sha256(self.config))

    @property
    def manifest(self) -> bytes:
        layer = "application/vnd.oci.image.layer.v1.tar"
        suffixes = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": sha256(self.config),
                    "size": len(self.config),
                },
                "layers": [
                    {"mediaType": layer + suffixes.get(data[:2], ""), "digest": sha256(data), "size": len(data)}
                    for data in self.layers
                ],
            }
        ).encode()

    @property
    def manifest_identity(self) -> ImageIdentity:
        return ImageIdentity(IdentityKind.MANIFEST, sha256(self.manifest))

    def save(self, path: Path) -> ImageIdentity:
        """Write what `docker save` writes; the file's identity."""
        names = [f"layer{number}/layer.tar" for number in range(len(self.layers))]
        manifest = [{"Config": "config.json", "RepoTags": ["localhost/any:1"], "Layers": names}]
        files = {"config.json": self.config, **dict(zip(names, self.layers, strict=True))}
        path.write_bytes(file_tar({**files, "manifest.json": json.dumps(manifest).encode()}))
        return ImageIdentity(IdentityKind.ARCHIVE, sha256(path.read_bytes()))

    def save_layout(self, path: Path) -> ImageIdentity:
        """Write an OCI layout in a tar archive; the file's identity."""
        blobs = (self.config, self.manifest, *self.layers)
        index = {"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST_TYPE, "digest": sha256(self.manifest)}]}
        files = {f"blobs/sha256/{sha256(blob)[7:]}": blob for blob in blobs}
        files |= {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode()}
        path.write_bytes(file_tar(files))
        return ImageIdentity(IdentityKind.ARCHIVE, sha256(path.read_bytes()))

    def push(self, host: str, name: str, tag: str = "1", login: tuple[str, str] | None = None) -> str:
        """Put it into a registry; its reference there."""
        for blob in (self.config, *self.layers):
            push_blob(host, name, blob, login)
        push_manifest(host, name, tag, self.manifest, MANIFEST_TYPE, login)
        return f"{host}/{name}:{tag}"


def push_blob(host: str, name: str, blob: bytes, login: tuple[str, str] | None = None) -> None:
    start = requests.post(f"http://{host}/v2/{name}/blobs/uploads/", auth=login, timeout=30)
    start.raise_for_status()
    there = start.headers["Location"]
    there = there if there.startswith("http") else f"http://{host}{there}"
    requests.put(there, params={"digest": sha256(blob)}, data=blob, auth=login, timeout=60).raise_for_status()


def push_manifest(host: str, name: str, tag: str, data: bytes, kind: str, login: tuple[str, str] | None = None) -> None:
    answer = requests.put(
        f"http://{host}/v2/{name}/manifests/{tag}",
        data=data,
        headers={"Content-Type": kind},
        auth=login,
        timeout=30,
    )
    answer.raise_for_status()


@pytest.fixture(scope="session")
def make_image(busybox_layer: bytes) -> Callable[..., OciImage]:
    """Makes an image that nobody else has: busybox, a layer with the file /data/mark, and this configuration.

    ``pack`` is none, gzip or zstd; ``diff_ids`` replaces the true ones; ``files`` are more files of the second layer,
    ``last`` is one more layer.
    """

    def make(
        *,
        pack: str = "none",
        diff_ids: list[str] | None = None,
        files: Mapping[str, bytes] | None = None,
        last: bytes | None = None,
        architecture: str = "amd64",
        **config: Any,
    ) -> OciImage:
        plain: tuple[bytes, ...] = (busybox_layer, file_tar({"data/mark": secrets.token_bytes(16), **(files or {})}))
        plain += (last,) if last is not None else ()
        how: dict[str, Callable[[bytes], bytes]] = {
            "none": bytes,
            "gzip": gzip.compress,
            "zstd": zstandard.ZstdCompressor().compress,
        }
        document = {
            "architecture": architecture,
            "os": "linux",
            "config": {**DEFAULTS, **config},
            "rootfs": {"type": "layers", "diff_ids": diff_ids or [sha256(layer) for layer in plain]},
        }
        return OciImage(json.dumps(document).encode(), tuple(how[pack](layer) for layer in plain))

    return make


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The installed engine; MEDPERF_TEST_SINGULARITY names another one."""
    try:
        return find_engine(SingularitySettings(program=os.environ.get("MEDPERF_TEST_SINGULARITY", "")))
    except ExecutionError as error:
        found: Engine = missing(f"no engine: {error}")
        return found


@attrs.define
class Place:
    """A runner's site: its folders, what it told, and how to stop it."""

    folder: Path
    program: str
    events: list[Event] = attrs.field(factory=list)
    cancel: CancelToken = attrs.field(factory=CancelToken)

    def context(self, **changes: Any) -> BackendContext:
        given = {"cache_dir": self.folder / "cache", "temp_dir": self.folder / "tmp", **changes}
        return BackendContext(**given, emit=self.events.append, cancel=self.cancel)

    def runner(self, settings: Mapping[str, Any] | None = None, **changes: Any) -> SingularityRunner:
        chosen = {"program": self.program, "docker_host": "none", **(settings or {})}
        return SingularityRunner(SingularitySettings(**chosen), self.context(**changes))

    def told(self, kind: type[Event], word: str) -> list[Event]:
        """The events of a kind with a word in them."""
        return [event for event in self.events if isinstance(event, kind) and word in str(event)]

    def kept(self) -> list[Path]:
        """Images that are in the store."""
        folder = self.folder / "cache" / "singularity" / "images"
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []

    def work(self) -> list[Path]:
        """What is left of work in hand."""
        folder = self.folder / "tmp"
        return sorted(folder.glob("medperf-new-*"))


@pytest.fixture
def place(tmp_path: Path, engine: Engine) -> Iterator[Place]:
    yield Place(tmp_path, engine.program)


@pytest.fixture
def context(place: Place) -> BackendContext:
    return place.context()


@attrs.define
class Tasks:
    """Tasks of one test, run by one account with an image that is there already."""

    engine: Engine
    image: Path
    folder: Path
    account: pwd.struct_passwd | None
    config: ImageConfig = attrs.field(factory=lambda: ImageConfig(env={"PATH": "/bin"}))
    settings: SingularitySettings = attrs.field(factory=SingularitySettings)
    events: list[Event] = attrs.field(factory=list)
    cancel: CancelToken = attrs.field(factory=CancelToken)

    @property
    def context(self) -> BackendContext:
        return BackendContext(self.folder / "cache", self.folder / "tmp", emit=self.events.append, cancel=self.cancel)

    @property
    def prepared(self) -> PreparedImage:
        identity = ImageIdentity(IdentityKind.SIF, f"sha256:{'0' * 64}")
        return PreparedImage(str(self.image), (identity,), ImageSource(SourceKind.SIF, str(self.image)))

    def path(self, name: str, content: str | None = None) -> Path:
        """A file with this content, or an empty folder, that every account may read."""
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
        volumes = tuple(
            VolumeSpec(
                mount.label,
                mount.writable,
                mount.kind,
                mount.label,
                mount_path=(places or {}).get(mount.label, f"/{mount.label}"),
            )
            for mount in mounts
        )
        task = changes.pop("task", None) or TaskSpec(
            "infer", volumes, CommandStyle.FIXED, entrypoint=("/bin/sh", "-c", script)
        )
        return TaskRequest(task, mounts, self.folder / "logs" / "task.log", **changes)

    def run(self, script: str, *mounts: Mount, **changes: Any) -> TaskOutcome:
        return self.run_request(self.request(script, *mounts, **changes))

    def run_request(self, request: TaskRequest) -> TaskOutcome:
        return execute.run(self.engine, self.settings, self.context, self.prepared, self.config, request)

    def mount(self, label: str, path: Path, *, writable: bool = False) -> Mount:
        return Mount(label, path, VolumeKind.DIRECTORY if path.is_dir() else VolumeKind.FILE, writable)

    @property
    def log(self) -> str:
        return (self.folder / "logs" / "task.log").read_text(errors="replace")

    def do(self, work: Callable[[], None]) -> None:
        """Do it with the rights of the account; what goes wrong there is a failure here."""
        if self.account is None:
            work()
            return
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgroups([])
                os.setgid(self.account.pw_gid)
                os.setuid(self.account.pw_uid)
                os.environ["HOME"] = str(self.folder)
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "see what it wrote"


@pytest.fixture(scope="session")
def sif(engine: Engine, busybox_layer: bytes) -> Iterator[Path]:
    """An image of busybox, with a set-user-ID helper of root that its author left there."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with tarfile.open(fileobj=io.BytesIO(busybox_layer)) as tar:
            tar.extractall(folder / "root", filter="tar")
        shutil.copy(BUSYBOX, folder / "root/bin/helper")
        (folder / "root/bin/helper").chmod(0o6755)
        (folder / "root/etc/passwd").write_text("root::0:0:root:/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        (folder / "root/etc/group").write_text("root:x:0:\n")
        (folder / "root/data/mark").write_text("of the image")
        scripts = folder / "root/.singularity.d/env"
        scripts.mkdir(parents=True)
        (scripts / "90-environment.sh").write_text("export OF_SCRIPT=image BOTH=image; echo said by the image\n")
        words = [engine.program, "--silent", "build", str(folder / "image.sif"), str(folder / "root")]
        subprocess.run(words, check=True, env=engine.environment(folder / "tmp", folder / "cache"))
        shutil.rmtree(folder / "root")
        yield folder / "image.sif"


@pytest.fixture(params=["root", "user"])
def tasks(request: pytest.FixtureRequest, engine: Engine, sif: Path) -> Iterator[Tasks]:
    """Tasks of root, and of an unprivileged account; tests do all with them in ``tasks.do``."""
    account = None
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        if request.param == "user" and os.geteuid() == 0:
            account = pwd.getpwnam("medperf-test")
            os.chown(folder, account.pw_uid, account.pw_gid)
        elif request.param == "root" and os.geteuid() != 0:
            missing("only root can be root")
        yield Tasks(engine, sif, folder, account)

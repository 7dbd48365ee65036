"""The image that ``RunnerContract`` runs, in the forms that a runner can be offered. Made here, without a network.

The archive is what ``docker save`` writes: ``manifest.json``, the image's configuration and its layers, here this
machine's Python (see ``root_fs``) and, above it, the probe.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import tarfile
from functools import cached_property
from pathlib import Path
from typing import Any

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.plugin.digest import source_digest
from medperf_core.plugin.testing import probe_program, root_fs

FOLDER = "opt/medperf-probe"
"""Where the probe is in its image, and where the image says that tasks start."""
OPEN = f"{FOLDER}/open"
"""A folder of the image that everybody may write, if its root file system can be written."""
VARIABLE = ("PROBE_IMAGE", "as the image says")
"""A variable that the image sets."""
TAG = "localhost/medperf-probe:tag"
PYTHON = "/usr/local/bin/python3"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class Probe:
    """The probe's image. Each form is made when it is first asked for.

    Args:
        folder: where files are made; of this probe alone.
        mark: text that is in the image and changes all of its identities.
        base: the probe whose layer with Python this one takes; None to make one. Same bytes either way.
    """

    def __init__(self, folder: Path, mark: str = "probe", base: Probe | None = None) -> None:
        self.folder, self.mark, self._base = folder, mark, base

    @cached_property
    def archive(self) -> ImageSource:
        """A ``docker save`` archive, uncompressed."""
        path = self.folder / "probe.tar"
        with path.open("wb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            _text(tar, f"{self._config_digest}.json", self._config)
            names = []
            for layer, digest in self._layers:
                names.append(f"{digest}/layer.tar")
                _file(tar, names[-1], layer)
            entry = {"Config": f"{self._config_digest}.json", "RepoTags": [TAG], "Layers": names}
            _text(tar, "manifest.json", json.dumps([entry]).encode())
        return ImageSource(SourceKind.ARCHIVE, str(path))

    @cached_property
    def tree(self) -> ImageSource:
        """A source tree whose program is ``probe.py``, for runners without images. There is no Dockerfile in it."""
        folder = self.folder / "tree"
        folder.mkdir()
        (folder / "probe.py").write_bytes(self._program)
        (folder / "mark").write_text(self.mark)
        return ImageSource(SourceKind.TREE, str(folder))

    def known(self, source: ImageSource) -> dict[IdentityKind, ImageIdentity]:
        """The true identities of one of this probe's forms, or of a file that was made of one."""
        path = Path(source.location)
        if source.kind is SourceKind.TREE:
            return {IdentityKind.SOURCE: ImageIdentity(IdentityKind.SOURCE, source_digest(path))}
        config = ImageIdentity(IdentityKind.CONFIG, f"sha256:{self._config_digest}")
        found = {IdentityKind.CONFIG: config}
        kinds = {SourceKind.ARCHIVE: IdentityKind.ARCHIVE, SourceKind.SIF: IdentityKind.SIF}
        if source.kind in kinds:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            found[kinds[source.kind]] = ImageIdentity(kinds[source.kind], f"sha256:{digest}")
        return found

    @cached_property
    def _python(self) -> tuple[Path, str]:
        if self._base is not None:
            return self._base._python
        path = self.folder / "python.tar"
        with path.open("wb") as stream:
            root_fs.write(stream)
        return path, _digest(path)

    @cached_property
    def _program(self) -> bytes:
        return self._base._program if self._base is not None else Path(probe_program.__file__).read_bytes()

    @cached_property
    def _layers(self) -> list[tuple[Path, str]]:
        own = self.folder / "own.tar"
        with own.open("wb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, mode in (("opt", 0o755), (FOLDER, 0o755), (OPEN, 0o1777)):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, mode
                tar.addfile(entry)
            _text(tar, f"{FOLDER}/probe.py", self._program)
            _text(tar, f"{FOLDER}/mark", self.mark.encode())
            cat = Path(shutil.which("cat") or "/bin/cat").resolve()
            _text(tar, f"{FOLDER}/suid-cat", cat.read_bytes(), 0o4755)
        return [self._python, (own, _digest(own))]

    @cached_property
    def _config(self) -> bytes:
        machine = platform.machine()
        document: dict[str, Any] = {
            "architecture": _MACHINES.get(machine, machine),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "=".join(VARIABLE)],
                "Entrypoint": [PYTHON, "-I", f"/{FOLDER}/probe.py"],
                "Cmd": ["own"],
                "WorkingDir": f"/{FOLDER}",
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for _, digest in self._layers]},
            "history": [{"created": "1970-01-01T00:00:00Z"} for _ in self._layers],
        }
        return json.dumps(document).encode()

    @cached_property
    def _config_digest(self) -> str:
        return hashlib.sha256(self._config).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _file(tar: tarfile.TarFile, name: str, path: Path) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = path.stat().st_size, 0o644
    with path.open("rb") as stream:
        tar.addfile(entry, stream)


def _text(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))

"""A root file system of this machine's Python: interpreter, standard library, shared libraries. Reaches no network."""

from __future__ import annotations

import io
import os
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import BinaryIO

from medperf_core.plugin.testing.shared_libraries import needed_by

PREFIX = "usr/local"
SKIPPED_FOLDERS = {
    "__pycache__",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
}
# The first holds the static library for embedding, the second would pull in a graphics stack.
SKIPPED_PREFIXES = ("config-", "_tkinter.", "_test")
BUSYBOX = Path("/bin/busybox")
USERS = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUPS = "root:x:0:\nnogroup:x:65534:\n"


def write(stream: BinaryIO) -> None:
    """Write the tar to `stream`; nothing is ever seeked, so it may be a pipe."""
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        _Writer(tar).fill()


class _Writer:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self.tar = tar
        self.folders: set[str] = set()

    def fill(self) -> None:
        # An engine mounts its own things on these, and refuses a filled /dev.
        for folder in ("dev", "proc", "sys", "etc", "bin", f"{PREFIX}/bin"):
            self.folder(folder)
        self.folder("tmp", 0o1777)
        self.text("etc/passwd", USERS)
        self.text("etc/group", GROUPS)
        self.shell()
        interpreter = Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
        binaries = [interpreter, *self.standard_library()]
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.file(f"{PREFIX}/bin/{name}", interpreter, 0o755)
        self.link(f"{PREFIX}/bin/python3", name)
        self.link(f"{PREFIX}/bin/python", "python3")
        for place, source in sorted(needed_by(binaries).items()):
            self.file(place, source, 0o755)

    def standard_library(self) -> list[Path]:
        """Copy the library and return the extension modules in it."""
        home = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix}))
        target = f"{PREFIX}/{home.relative_to(sys.base_prefix).as_posix()}"
        extensions = []
        for folder, subfolders, files in os.walk(home):
            subfolders[:] = sorted(name for name in subfolders if not _skipped(name))
            for name in sorted(files):
                source = Path(folder, name)
                if _skipped(name) or name.endswith((".pyc", ".a")) or not source.is_file():
                    continue
                self.file(f"{target}/{source.relative_to(home).as_posix()}", source, 0o644)
                if name.endswith(".so"):
                    extensions.append(source)
        # The interpreter looks for this folder even when every extension is built in.
        self.folder(f"{target}/lib-dynload")
        return extensions

    def shell(self) -> None:
        if BUSYBOX.is_file() and not needed_by([BUSYBOX]):
            self.file("bin/busybox", BUSYBOX, 0o755)
            self.link("bin/sh", "busybox")

    def folder(self, name: str, mode: int = 0o755) -> None:
        if name in self.folders or not name:
            return
        self.folder(name.rpartition("/")[0])
        self.folders.add(name)
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, mode
        self.tar.addfile(info)

    def file(self, name: str, source: Path, mode: int) -> None:
        self.content(name, source.read_bytes(), mode)

    def text(self, name: str, text: str) -> None:
        self.content(name, text.encode(), 0o644)

    def content(self, name: str, content: bytes, mode: int) -> None:
        self.folder(name.rpartition("/")[0])
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), mode
        self.tar.addfile(info, io.BytesIO(content))

    def link(self, name: str, target: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        self.tar.addfile(info)


def _skipped(name: str) -> bool:
    return name in SKIPPED_FOLDERS or name.startswith(SKIPPED_PREFIXES)

"""The file store reads plain files of this machine, for addresses from here only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import attrs
import pytest

from medperf_core.builtin.file import FileStorage, medperf_storages
from medperf_core.errors import TransferError
from medperf_core.plugin import BackendContext, FetchRequest, NoSettings


@attrs.define
class Memory:
    """A sink that keeps what it gets."""

    data: bytes = b""
    expected: list[int | None] = attrs.field(factory=list)

    def expect(self, size: int | None) -> None:
        self.expected.append(size)

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data = b""

    @property
    def written(self) -> int:
        return len(self.data)


def fetch(url: str, *, allow_local: bool = True, max_bytes: int = 1 << 30) -> Memory:
    sink = Memory()
    info = FileStorage().fetch(FetchRequest(url, allow_local, max_bytes), sink)
    assert info.size == sink.written
    return sink


@pytest.mark.parametrize("form", ["file://{}", "file:{}", "file://localhost{}", "FILE://LOCALHOST{}"])
@pytest.mark.parametrize("name", ["plain.bin", "with space.bin", "ü+%41?#.bin", os.fsdecode(b"not-utf8-\xff")])
def test_reads_every_form_of_address(form: str, name: str, tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 17)
    (tmp_path / name).write_bytes(content)
    sink = fetch(form.format(quote(os.fsencode(tmp_path / name))))
    assert sink.data == content
    assert sink.expected == [len(content)]


def test_empty_file_and_link_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to("empty")
    assert fetch((tmp_path / "link").as_uri()).data == b""


def test_address_from_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("patient")
    with pytest.raises(TransferError, match="did not come from here"):
        fetch((tmp_path / "a").as_uri(), allow_local=False)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file://server/share/a", "on another machine"),
        ("file://user:secret@server/share/a", "on another machine"),
        ("file:a/b", "full path"),
        ("file:", "full path"),
        ("file:///a%00b", "full path"),
        ("file:///a?b", "after"),
        ("file:///a#b", "after"),
        ("https://host/a", "not a file: URL"),
        ("file:///no/such/file", "No such file"),
        ("file:///dev/null", "a device, pipe or socket"),
        ("file:///", "a folder"),
        ("file:///proc/self/status", "changed while it was read"),
    ],
)
def test_what_is_refused(url: str, words: str) -> None:
    with pytest.raises(TransferError, match=words) as caught:
        fetch(url)
    assert "secret" not in str(caught.value)


@pytest.mark.timeout(20)
def test_pipe_and_socket_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("pipe", "socket"):
            with pytest.raises(TransferError, match=name):
                fetch((tmp_path / name).as_uri())


def test_too_large_is_refused_before_reading(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    with pytest.raises(TransferError, match="5 bytes; at most 4"):
        fetch((tmp_path / "a").as_uri(), max_bytes=4)
    assert fetch((tmp_path / "a").as_uri(), max_bytes=5).data == b"12345"


def test_plugin_describes_and_makes_it(tmp_path: Path) -> None:
    (plugin,) = medperf_storages()
    assert (plugin.name, plugin.schemes, plugin.api) == ("file", ("file",), plugin.API)
    made = plugin.make(NoSettings(), BackendContext(tmp_path, tmp_path))
    assert isinstance(made, FileStorage)


def test_module_is_light() -> None:
    code = "import sys, medperf_core.builtin.file as f; list(f.medperf_storages()); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"medperf_core.entities", "medperf_core.site", "requests", "hashlib", "ssl"}.isdisjoint(loaded)

"""Notes of uploads that were begun, so that the same command goes on with one whose program was killed.

There is a file for each address, below the site's cache and for its owner only: what it says of an upload is enough to
write to it. Lines of JSON are added to it, and it is removed once the server has nothing of these uploads any more:

* ``["begun", name, size, sha256]``: an upload was begun; it is the one that the next lines are about.
* ``["again", name]``: it went on; the next lines are about it again.
* ``["mark", number, text]``: something that is known of its bytes.
* ``["gone", name]``: the server has nothing of it any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from medperf_core.plugin.storage import PutRequest

MAX_BYTES = 64 << 20
"""Of a note that is read: some hundred thousand marks."""

_MAX_NAME = 4096


@attrs.define
class Begun:
    """An upload that a server was asked to begin.

    Attributes:
        name: what the server knows it by: an ID, or the address of a session, which lets everybody upload. A secret.
        size: of the file in bytes.
        sha256: of the file, hexadecimal.
        marks: what is known of its bytes; what the numbers and texts mean is the matter of each cloud.
    """

    name: str = attrs.field(repr=False)
    size: int
    sha256: str
    marks: dict[int, str] = attrs.field(factory=dict, repr=False)

    def is_of(self, request: PutRequest) -> bool:
        """Whether it is of the file of a request."""
        return (self.size, self.sha256) == (request.size, request.sha256.lower())


class Note:
    """What is known of uploads to one address. Marks may come from any thread.

    Attributes:
        begun: uploads that the server may still have something of; the oldest first.
    """

    def __init__(self, path: Path | None = None, stream: int = -1, begun: list[Begun] | None = None) -> None:
        self.begun = begun or []
        self._path = path
        self._stream = stream
        self._lock = threading.Lock()

    @property
    def kept(self) -> bool:
        """Whether anything is noted. It is not while another upload to the same address runs on this machine, whose
        note this would be, nor where no file can be written."""
        return self._stream >= 0

    def begin(self, begun: Begun) -> None:
        """Note an upload that was begun just now."""
        self.begun.append(begun)
        self._add("begun", begun.name, begun.size, begun.sha256)

    def again(self, begun: Begun) -> None:
        """Note that an upload goes on."""
        self._add("again", begun.name)

    def mark(self, number: int, text: str) -> None:
        """Note something of the upload that was begun, or went on, last."""
        self._add("mark", number, text)

    def gone(self, begun: Begun) -> None:
        """Note that the server has nothing of an upload any more."""
        self.begun = [each for each in self.begun if each.name != begun.name]
        self._add("gone", begun.name)

    def _add(self, *words: Any) -> None:
        with self._lock, contextlib.suppress(OSError):  # without it, only a killed program begins anew
            if self._stream >= 0:
                os.write(self._stream, f"{json.dumps(words)}\n".encode())

    def _close(self) -> None:
        with self._lock:
            stream, self._stream = self._stream, -1
        if stream < 0:
            return
        if self._path is not None and not self.begun:
            with contextlib.suppress(OSError):
                self._path.unlink()  # while it is still held
        os.close(stream)


@contextlib.contextmanager
def noting(folder: Path, address: str) -> Iterator[Note]:
    """The note of an address, held while an upload to it runs.

    Args:
        folder: where notes are kept.
        address: where to; tells one server's buckets from another's.
    """
    note = _opened(folder / f"{hashlib.sha256(address.encode()).hexdigest()}.note")
    try:
        yield note
    finally:
        note._close()


def _opened(path: Path) -> Note:
    stream = -1
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            stream = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError, an OSError, if another holds it
            if _is_there(path, stream):
                return Note(path, stream, _read(stream))
            os.close(stream)
            stream = -1
    except OSError:
        if stream >= 0:
            os.close(stream)
        return Note()


def _is_there(path: Path, stream: int) -> bool:
    """Whether an open file still has its name: whoever held it before may have removed it."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(stream))


def _read(stream: int) -> list[Begun]:
    """What a note says. A line that was cut off when its program was killed says nothing."""
    size = os.fstat(stream).st_size
    data = os.pread(stream, min(size, MAX_BYTES), 0)
    if data and not data.endswith(b"\n"):
        os.write(stream, b"\n")
    found: dict[str, Begun] = {}
    last: Begun | None = None
    for line in data.splitlines():
        match _words(line):
            case ["begun", str(name), int(size), str(sha256)] if len(name) <= _MAX_NAME:
                last = found[name] = Begun(name, size, sha256)
            case ["again", str(name)]:
                last = found.get(name)
            case ["mark", int(number), str(text)] if last is not None:
                last.marks[number] = text
            case ["gone", str(name)]:
                found.pop(name, None)
    return list(found.values())


def _words(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None

"""Brings files from anywhere into the cache: fetched, counted, hashed and checked in one pass."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import attrs

from medperf_core.entities.checks import SHA256_HEX
from medperf_core.errors import InvalidEntityError, TransferError, VerificationError
from medperf_core.plugin.context import BackendContext
from medperf_core.plugin.events import Progress, StepFinished, StepStarted
from medperf_core.plugin.storage import FetchInfo, FetchRequest, Storage
from medperf_core.site.cache import Cache
from medperf_core.site.side_hash import SideHash

MAX_BYTES = 1 << 40
RESERVE = 256 << 20
"""Bytes of the disk that a fetch leaves free, so that the site can still write its records."""

PROGRESS_SECONDS = 0.2
WRITE_OUT_BYTES = 32 << 20
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_HTML = re.compile(rb"\s*(<!--.{0,200}?-->\s*)?<(!doctype html|html)\b", re.IGNORECASE | re.DOTALL)
_HEAD = 512


class Origin(StrEnum):
    """Where an address came from, which decides what it may reach."""

    TYPED = "typed here"
    EMBEDDED = "from an embedded server"
    REMOTE = "from a server"
    MANIFEST = "from a manifest"

    @property
    def allow_local(self) -> bool:
        """Whether it may name files and loopback addresses of this machine."""
        return self in (Origin.TYPED, Origin.EMBEDDED)


@attrs.frozen
class Fetched:
    """A file in the cache.

    Attributes:
        path: not to be changed, moved or removed.
        sha256: hexadecimal; was computed here.
        size: bytes.
        url: the address that was followed, ``file:`` for a path.
        url_redacted: where it came from, without secrets, for messages and records.
        reused: whether it was in the cache already.
    """

    path: Path
    sha256: str
    size: int
    url: str
    url_redacted: str
    reused: bool = False


class Fetcher:
    """Fetches files for one site.

    Args:
        storages: gives the store of a URL scheme; its error lists the installed ones.
        max_bytes: a larger file is refused.
    """

    def __init__(
        self, cache: Cache, storages: Callable[[str], Storage], context: BackendContext, max_bytes: int = MAX_BYTES
    ) -> None:
        self._cache = cache
        self._storages = storages
        self._context = context
        self._max_bytes = max_bytes

    def fetch(self, url: str, *, origin: Origin, sha256: str | None = None) -> Fetched:
        """The file at an address, checked.

        Args:
            url: with a scheme; ``direct:`` before it is accepted. A path of this machine if it was typed here.
            origin: where the address came from.
            sha256: hexadecimal; if the cache has it, no connection is made. None accepts what comes and returns its
                hash, for a file that is being registered.

        Raises:
            TransferError: it cannot be fetched, is too large, there is no room for it, or the address may not be
                followed from where it came.
            VerificationError: what came is not the expected file; nothing of it was kept.
            OfflineError: a connection would be needed while working offline.
        """
        expected = sha256.lower() if sha256 else None
        if expected and not SHA256_HEX.fullmatch(expected):
            raise InvalidEntityError(f"{sha256!r} is not a SHA-256.", hint="It has 64 digits 0-9 and a-f.")
        address = _address(url, origin)
        shown = _redacted(address)
        if expected and (cached := self._cache.file(expected)):
            return Fetched(cached, expected, cached.stat().st_size, address, shown, reused=True)
        scheme = address.partition(":")[0]
        store = self._storages(scheme)
        shown = store.redact(address)
        what = f"fetching {shown}"
        self._context.cancel.raise_if_cancelled()
        self._context.emit(StepStarted(what))
        fetched = self._fetch(store, FetchRequest(address, origin.allow_local, self._max_bytes), shown, expected)
        self._context.emit(StepFinished(what))
        return fetched

    def _fetch(self, store: Storage, request: FetchRequest, shown: str, expected: str | None) -> Fetched:
        self._cache.remove_leftovers()
        temporary = self._cache.temporary()
        try:
            with CacheSink(temporary, shown, request.max_bytes, self._context) as sink:
                info = store.fetch(request, sink)
                sink.finish(info)
            if expected and sink.sha256 != expected:
                raise _mismatch(shown, expected, sink)
            with _writing(shown):
                path = self._cache.add(sink.sha256, temporary)
        finally:
            temporary.unlink(missing_ok=True)
        return Fetched(path, sink.sha256, sink.written, request.url, shown)


class CacheSink:
    """Takes one file: writes it to ``path``, hashes and counts it, watches the limits, tells the progress.

    Args:
        shown: the redacted address, for messages.
    """

    def __init__(self, path: Path, shown: str, max_bytes: int, context: BackendContext) -> None:
        self._path = path
        self._shown = shown
        self._max_bytes = max_bytes
        self._context = context
        with _writing(shown):
            self._stream = path.open("xb", buffering=0)
        self._told = 0.0
        self._begin()

    def _begin(self) -> None:
        self._digest = SideHash()
        self._written = 0
        self._on_its_way = 0
        self._expected: int | None = None
        self.head = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._digest.close()
        with _writing(self._shown):
            self._stream.close()

    @property
    def written(self) -> int:
        return self._written

    @property
    def sha256(self) -> str:
        """Hexadecimal, of what was taken so far."""
        return self._digest.hexdigest()

    def expect(self, size: int | None) -> None:
        self._expected = size
        if size is None:
            return
        if size > self._max_bytes:
            raise self._too_large(f"has {size} bytes")
        free = shutil.disk_usage(self._path.parent).free
        if size + RESERVE > free:
            raise TransferError(
                f"{self._shown} has {size} bytes, but only {max(free - RESERVE, 0)} are free for it in the cache "
                f"({self._path.parent.parent}).",
                hint="Free some room on that disk, or keep the cache on a larger one.",
            )

    def write(self, data: bytes) -> None:
        self._context.cancel.raise_if_cancelled()
        total = self._written + len(data)
        if total > self._max_bytes:
            raise self._too_large("is larger")
        if self._expected is not None and total > self._expected:
            raise TransferError(
                f"{self._shown} sent more than the {self._expected} bytes that it announced.",
                hint="The server or a proxy is at fault; try again later.",
            )
        if len(self.head) < _HEAD:
            self.head += data[: _HEAD - len(self.head)]
        self._digest.update(data)
        with _writing(self._shown):
            left = memoryview(data)
            while left:
                left = left[self._stream.write(left) :]
        self._written = total
        self._write_out()
        self._tell(finished=False)

    def restart(self) -> None:
        self._digest.close()
        with _writing(self._shown):
            self._stream.seek(0)
            self._stream.truncate()
        self._begin()

    def finish(self, info: FetchInfo) -> None:
        """Make sure that all that was announced came, and that it is on the disk."""
        for size in (self._expected, info.size):
            if size is not None and size != self._written:
                raise TransferError(
                    f"{self._shown} was cut short: {self._written} of {size} bytes came.",
                    hint="Try again; nothing was kept.",
                )
        with _writing(self._shown):
            os.fsync(self._stream.fileno())
        self._tell(finished=True)

    def _write_out(self) -> None:
        """Has the system begin to put on the disk what came, so that little is left to wait for at the end."""
        if self._written - self._on_its_way >= WRITE_OUT_BYTES:
            with _writing(self._shown):
                # "Not needed" starts the writing without waiting; what is not written yet stays in memory anyway.
                length = self._written - self._on_its_way
                os.posix_fadvise(self._stream.fileno(), self._on_its_way, length, os.POSIX_FADV_DONTNEED)
            self._on_its_way = self._written

    def _too_large(self, what: str) -> TransferError:
        return TransferError(
            f"{self._shown} {what}; at most {self._max_bytes} are allowed.",
            hint="Ask its owner whether that is the right file.",
        )

    def _tell(self, *, finished: bool) -> None:
        now = time.monotonic()
        if finished or now - self._told >= PROGRESS_SECONDS:
            self._told = now
            self._context.emit(Progress(f"fetching {self._shown}", self._written, self._expected))


@contextmanager
def _writing(shown: str) -> Iterator[None]:
    """Turns errors of the disk into words."""
    try:
        yield
    except OSError as error:
        raise TransferError(
            f"{shown} could not be written to the cache: {error.strerror or error}.",
            hint="Check the free space and permissions of the cache; nothing was kept.",
        ) from error


def _mismatch(shown: str, expected: str, sink: CacheSink) -> VerificationError:
    if _HTML.match(sink.head):
        hint = "What came is a web page, perhaps one to log in: the address may no longer lead to the file itself."
    elif not sink.written:
        hint = "What came is empty."
    else:
        hint = "It was changed since it was registered, or something on the way changed it; ask its owner."
    return VerificationError(
        f"{shown} is not the expected file and was not kept: expected SHA-256 {expected}, found "
        f"{sink.sha256} ({sink.written} bytes).",
        hint=hint,
    )


def _address(url: str, origin: Origin) -> str:
    """The address that a store is given.

    Raises:
        TransferError: it is not an address, or may not be followed from where it came.
    """
    address = url.strip()
    if address[:7].lower() == "direct:":
        address = address[7:]
    if not _SCHEME.match(address):
        if origin is not Origin.TYPED or not address or "\0" in address:
            raise TransferError(
                f"{address[:200]!r} {origin} is not an address of a file.",
                hint="It needs a scheme, as in https://host/file.",
            )
        try:
            return Path(address).expanduser().absolute().as_uri()
        except RuntimeError:
            raise TransferError(
                f"{address[:200]!r} begins with the home folder of nobody here.", hint="Write the whole path."
            ) from None
    if any(ord(char) < 33 or ord(char) == 127 for char in address) or "\\" in address:
        raise TransferError(
            f"The address {_redacted(address)!r} has a blank, a backslash or a control character.",
            hint="Write %20 for a blank.",
        )
    scheme, _, rest = address.partition(":")
    if scheme.lower() == "file" and not origin.allow_local:
        raise TransferError(
            f"{_redacted(address)} came {origin} and names a file of this machine; it was not read.",
            hint="Only an address that is typed here may do that; ask for an https address.",
        )
    return f"{scheme.lower()}:{rest}"


def _redacted(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return f"{address.partition(':')[0]}:..."
    path = parts.path.rpartition("@")[2] if parts.path.startswith("//") else parts.path
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))

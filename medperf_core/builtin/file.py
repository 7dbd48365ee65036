"""Files of this machine by ``file:`` URLs."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote_to_bytes, urlsplit

from medperf_core.errors import TransferError
from medperf_core.plugin.descriptors import StoragePlugin
from medperf_core.plugin.hookspecs import hookimpl
from medperf_core.plugin.storage import FetchInfo, FetchRequest, PutRequest, Sink, Storage, StoragePromise, Stored

if TYPE_CHECKING:
    from medperf_core.plugin.context import BackendContext

CHUNK = 1 << 20


class FileStorage(Storage):
    """Reads ``file:///abs``, ``file:/abs`` and ``file://localhost/abs``; escapes such as ``%20`` are decoded."""

    promises = frozenset({StoragePromise.LOCAL, StoragePromise.SIZE, StoragePromise.UPLOAD})

    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        if not request.allow_local:
            raise TransferError(
                f"{self.redact(request.url)} names a file of this machine, but the address did not come from here.",
                hint="Only addresses typed at this machine may do that; ask for an https address.",
            )
        path = local_path(request.url)
        try:
            # Without O_NONBLOCK, opening a named pipe would wait for ever for its other end.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                size = _size(path, descriptor, request.max_bytes)
                sink.expect(size)
                while data := os.read(descriptor, CHUNK):
                    sink.write(data)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise TransferError(
                f"The file {path} cannot be read: {error.strerror or error}.",
                hint="Check the path and that you may read it.",
            ) from error
        if sink.written != size:
            raise TransferError(
                f"The file {path} changed while it was read.", hint="Run it again when nothing writes to the file."
            )
        return FetchInfo(size=size)

    def look(self, url: str) -> Stored | None:
        path = local_path(url)
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TransferError(f"{path} cannot be looked at: {error.strerror}.") from error
        if not stat.S_ISREG(status.st_mode):
            raise TransferError(f"{path} is there already and is no file.", hint="Upload to another folder.")
        return Stored(status.st_size)

    def put(self, request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        import secrets  # here: most commands upload nothing

        path = local_path(request.url)
        temporary = path.with_name(f".{secrets.token_hex(12)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with request.path.open("rb") as source, temporary.open("xb") as target:
                _copy(source, target, request, on_bytes)
                os.fchmod(target.fileno(), 0o644)
                os.fsync(target.fileno())
            path.hardlink_to(temporary)  # unlike a rename, it never replaces what is there
        except FileExistsError as error:
            raise TransferError(
                f"{path} is there already; nothing is overwritten.", hint="Upload to another folder."
            ) from error
        except OSError as error:
            raise TransferError(
                f"{request.path} cannot be copied to {path}: {error.strerror or error}.",
                hint="Check the free space and permissions there.",
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        return Stored(request.size)

    def public_url(self, url: str) -> None:
        return None


def _copy(source: BinaryIO, target: BinaryIO, request: PutRequest, on_bytes: Callable[[int], None]) -> None:
    import hashlib  # here: most commands upload nothing

    digest, size = hashlib.sha256(), 0
    while data := source.read(CHUNK):
        on_bytes(len(data))
        digest.update(data)
        size += len(data)
        target.write(data)
    target.flush()
    if (size, digest.hexdigest()) != (request.size, request.sha256):
        raise TransferError(
            f"{request.path} changed before it was uploaded; nothing was kept.", hint="Package it again."
        )


def _size(path: Path, descriptor: int, max_bytes: int) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
        raise TransferError(f"{path} is {what}, not a file.", hint="Name one file; pack a folder first.")
    if status.st_size > max_bytes:
        raise TransferError(f"The file {path} has {status.st_size} bytes; at most {max_bytes} are allowed.")
    return status.st_size


def local_path(url: str) -> Path:
    """The path that a ``file:`` URL names.

    Raises:
        TransferError: the URL is relative, names another machine, has a query or fragment, or decodes to a NUL.
    """
    shown = FileStorage().redact(url)
    try:
        parts = urlsplit(url)
        raw = unquote_to_bytes(parts.path)
    except ValueError:
        raise TransferError(
            f"{shown!r} cannot be read as an address.", hint="Write file:///full/path/of/file."
        ) from None
    if parts.scheme != "file":
        raise TransferError(f"{shown!r} is not a file: URL.")
    if parts.netloc.lower() not in ("", "localhost"):
        raise TransferError(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path} is on another machine.",
            hint="Write file:///path for a file of this machine.",
        )
    if parts.query or parts.fragment:
        raise TransferError(
            f"{shown!r} has a part after '?' or '#', which a file does not have.",
            hint="If it belongs to the name, write %3F for '?' and %23 for '#'.",
        )
    if not raw.startswith(b"/") or b"\0" in raw:
        raise TransferError(
            f"{shown!r} does not name a file by its full path.", hint="Write file:///full/path/of/file."
        )
    return Path(os.fsdecode(raw))


def _make(settings: Any, context: BackendContext) -> FileStorage:
    return FileStorage()


@hookimpl
def medperf_storages() -> Iterator[StoragePlugin]:
    yield StoragePlugin(name="file", summary="files of this machine", api=1, schemes=("file",), make=_make)

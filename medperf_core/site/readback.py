"""Reads back what was uploaded: hashed as it comes, and kept nowhere."""

from __future__ import annotations

from medperf_core.errors import TransferError, VerificationError
from medperf_core.plugin.context import BackendContext
from medperf_core.plugin.storage import FetchRequest, Storage
from medperf_core.site.side_hash import SideHash
from medperf_core.site.whole import received


class _HashSink:
    """Takes one file and keeps its hash and size."""

    def __init__(self, context: BackendContext, most: int) -> None:
        self._context, self._most = context, most
        self.digest, self.written = SideHash(), 0

    def expect(self, size: int | None, version: str = "") -> None:
        if size is not None and size > self._most:
            raise TransferError(f"It has {size} bytes instead of {self._most}.")

    def write(self, data: bytes) -> None:
        self._context.cancel.raise_if_cancelled()
        self.written += len(data)
        if self.written > self._most:
            raise TransferError(f"It has more than {self._most} bytes.")
        self.digest.update(data)

    def restart(self) -> None:
        self.digest.close()
        self.digest, self.written = SideHash(), 0


def read_back(store: Storage, url: str, size: int, sha256: str, context: BackendContext) -> None:
    """Fetch a file once more and compare it.

    Args:
        url: an address that was made here, which may be one of this machine.
        size: bytes that it must have.
        sha256: hexadecimal, that it must have.

    Raises:
        VerificationError: something else is there.
        TransferError: it cannot be read.
    """
    shown = store.redact(url)

    def receive(whole: bool) -> tuple[tuple[int, str], bool]:
        sink = _HashSink(context, size)
        try:
            info = store.fetch(FetchRequest(url, True, size, whole=whole), sink)
            return (sink.written, sink.digest.hexdigest()), info.joined
        finally:
            sink.digest.close()

    found = received(receive, lambda what: what == (size, sha256), shown, context.emit)
    if found != (size, sha256):
        raise VerificationError(
            f"{shown} is not what was uploaded: expected {size} bytes with SHA-256 {sha256}, found {found[0]} with "
            f"{found[1]}.",
            hint="Somebody changed it, or an upload by another program was cut short. Publish under another prefix.",
        )

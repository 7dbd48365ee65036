"""Reads back what was uploaded: hashed as it comes, and kept nowhere."""

from __future__ import annotations

from medperf_core.errors import TransferError, VerificationError
from medperf_core.plugin.context import BackendContext
from medperf_core.plugin.storage import FetchRequest, Storage
from medperf_core.site.side_hash import SideHash


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
    sink = _HashSink(context, size)
    try:
        store.fetch(FetchRequest(url, True, size), sink)
        found = sink.digest.hexdigest()
    finally:
        sink.digest.close()
    if (sink.written, found) != (size, sha256):
        raise VerificationError(
            f"{store.redact(url)} is not what was uploaded: expected {size} bytes with SHA-256 {sha256}, found "
            f"{sink.written} with {found}.",
            hint="Somebody changed it, or an upload by another program was cut short. Publish under another prefix.",
        )

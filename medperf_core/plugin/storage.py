"""The storage seam: where bytes live, and how to get or put them."""

from __future__ import annotations

import abc
from typing import Protocol

import attrs


@attrs.frozen
class FetchRequest:
    """A file to fetch.

    Attributes:
        url: its address, with a scheme that the store serves.
        allow_local: whether ``file:`` and loopback addresses may be followed. The core decides it by where the
            address came from; a redirect to one is refused in any case.
        max_bytes: more than this is an error.
    """

    url: str
    allow_local: bool
    max_bytes: int


@attrs.frozen
class FetchInfo:
    """What a store learned of a file that it fetched.

    Attributes:
        size: bytes; None if the store could not tell before the end.
        version: ETag or generation that identifies this content at the store; "" if there is none.
    """

    size: int | None = None
    version: str = ""


class Sink(Protocol):
    """Takes a file's bytes in order, hashing and counting as it writes. Made by the site."""

    def expect(self, size: int | None) -> None:
        """Tell how many bytes will come, as soon as it is known; checked against limits, shown as progress."""

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            TransferError: more came than was expected or is allowed, or the disk is full.
            CancelledError: the work is no longer wanted.
        """

    def restart(self) -> None:
        """Forget everything written so far, before a new attempt from the first byte."""

    @property
    def written(self) -> int:
        """Bytes taken since the start or the last restart."""


class Storage(abc.ABC):
    """One kind of store, chosen by a URL's scheme."""

    @abc.abstractmethod
    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        """Read a file once and hand all of its bytes to the sink in order.

        Raises:
            TransferError: it is not there or cannot be read; names the redacted URL and the reason.
            OfflineError: a connection would be needed while working offline.
        """

    def redact(self, url: str) -> str:
        """``url`` without secrets, for messages and records. The default removes user info, query and fragment."""
        from urllib.parse import urlsplit, urlunsplit

        try:
            parts = urlsplit(url)
        except ValueError:  # such as brackets without an address in them
            return f"{url.partition(':')[0]}:..."
        path = parts.path.rpartition("@")[2] if parts.path.startswith("//") else parts.path
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))

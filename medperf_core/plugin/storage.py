"""The storage seam: where bytes live, and how to get or put them."""

from __future__ import annotations

import abc
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol

import attrs

from medperf_core.errors import TransferError


@attrs.frozen
class FetchRequest:
    """A file to fetch.

    Attributes:
        url: its address, with a scheme that the store serves.
        allow_local: whether ``file:`` and loopback addresses may be followed. The core decides it by where the
            address came from; a redirect to one is refused in any case.
        max_bytes: more than this is an error.
        start: bytes that the sink holds already from a fetch that was interrupted; not 0 only for a store that
            promises ``RESUME``. It goes on from there if the file is still of ``version``, and else calls the sink's
            ``restart`` and begins anew.
        version: ``FetchInfo.version`` of the content that those bytes are of.
        whole: take all bytes from one answer, from the first to the last; never go on in a further one. Asked for when
            bytes that were put together turned out wrong.
    """

    url: str
    allow_local: bool
    max_bytes: int
    start: int = 0
    version: str = ""
    whole: bool = False


@attrs.frozen
class FetchInfo:
    """What a store learned of a file that it fetched.

    Attributes:
        size: bytes; None if the store could not tell before the end.
        version: ETag or generation that identifies this content at the store; "" if there is none.
        joined: whether the sink's bytes came in more than one answer, held together by their version only. If they
            are not the expected ones, the file is fetched once more with ``FetchRequest.whole``.
    """

    size: int | None = None
    version: str = ""
    joined: bool = False


@attrs.frozen
class PutRequest:
    """A file to upload.

    Attributes:
        url: where to, with a scheme that the store serves.
        path: the file on this machine; it must not change meanwhile.
        size: bytes.
        sha256: hexadecimal; the store checks what it sends against it.
        absent: whether the caller has just looked at the address and nothing was there, so that the store need not look
            once more for each of many small files. What appeared meanwhile is never replaced, as long as the server
            takes that condition.
    """

    url: str
    path: Path
    size: int
    sha256: str
    absent: bool = False


@attrs.frozen
class Stored:
    """A file that is in a store.

    Attributes:
        size: bytes.
        version: ETag or generation; "" if there is none.
    """

    size: int
    version: str = ""


class Sink(Protocol):
    """Takes a file's bytes in order, hashing and counting as it writes. Made by the site."""

    def expect(self, size: int | None, version: str = "") -> None:
        """Tell the size of the whole file and its version, as soon as they are known and before the first byte.

        The size is checked against limits and shown as progress. The version is kept with what was written, so that a
        later command can go on where this one was interrupted.
        """

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


class StoragePromise(StrEnum):
    """What a store says of itself beyond what every store does. The conformance kit tries each one that is given."""

    NETWORK = "network"
    """It reaches its files by network: it opens no connection while offline, and tells a cut transfer from a whole
    one. A store without it works offline."""
    LOCAL = "local"
    """Its addresses can name this machine; it follows those only where ``FetchRequest.allow_local`` says so."""
    SIZE = "size"
    """It tells a file's size before the first byte, where the place that has the file tells it."""
    VERSION = "version"
    """It tells a version that changes with the content, where the place that has the file tells one."""
    RETRIES = "retries"
    """It tries again by itself after a fault that may pass, such as a cut connection."""
    RESUME = "resume"
    """It goes on at any byte, in one fetch and in a later one, as long as the file is the same; see
    ``FetchRequest.start``."""
    UPLOAD = "upload"
    """It has ``look``, ``put`` and ``public_url``, and perhaps ``anonymous``."""


class Storage(abc.ABC):
    """One kind of store, chosen by a URL's scheme.

    One instance is used from several threads at once, each with a file of its own. ``on_bytes`` of ``put`` and the sink
    of ``fetch`` are called from one thread at a time.
    """

    promises: ClassVar[frozenset[StoragePromise]] = frozenset()
    """What it does beyond what every store does."""

    @abc.abstractmethod
    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        """Read a file once and hand all of its bytes to the sink in order.

        Raises:
            TransferError: it is not there or cannot be read; names the redacted URL and the reason.
            AccessRefusedError: the same, where the place that has it answered that it does not give it to whoever asks
                like that. A store that serves ``public_url`` addresses (``https``), and one that is ``anonymous``, must
                tell this from faults that may pass: only by this error are published files known to be private.
            OfflineError: a connection would be needed while working offline.
        """

    def look(self, url: str) -> Stored | None:
        """What is at an address; None if nothing is. Only with ``UPLOAD``.

        Raises:
            TransferError: nobody can tell.
            OfflineError: a connection would be needed while working offline.
        """
        raise self._no_upload(url)

    def put(self, request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        """Upload a file to an address where nothing is; what is there is never replaced. Only with ``UPLOAD``.

        Args:
            on_bytes: is given the number of bytes sent since the last call; may raise CancelledError. What was
                uploaded of an interrupted file is never seen at the address.

        Raises:
            TransferError: something is there already, the file is not what the request says, or it cannot be sent.
            OfflineError: a connection would be needed while working offline.
        """
        raise self._no_upload(request.url)

    def public_url(self, url: str) -> str | None:
        """The ``https`` address under which anybody may read what is at ``url``, if its owner lets everybody read.

        None if the store has no such addresses. Only with ``UPLOAD``.
        """
        raise self._no_upload(url)

    def anonymous(self) -> Storage | None:
        """The same store, at the same place, as it answers somebody without an account; for addresses that have no
        ``public_url``, and only for reading.

        It must not use any credentials, and refuses what needs some by ``AccessRefusedError``. None where nobody is
        told from anybody else, as for ``file:``, or where the store cannot do it.
        """
        return None

    def _no_upload(self, url: str) -> TransferError:
        return TransferError(
            f"Nothing can be uploaded to {self.redact(url)}.", hint="Use gs://, s3:// or file:// addresses."
        )

    def redact(self, url: str) -> str:
        """``url`` without secrets, for messages and records. The default removes user info, query and fragment."""
        from urllib.parse import urlsplit, urlunsplit

        try:
            parts = urlsplit(url)
        except ValueError:  # such as brackets without an address in them
            return f"{url.partition(':')[0]}:..."
        path = parts.path.rpartition("@")[2] if parts.path.startswith("//") else parts.path
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))

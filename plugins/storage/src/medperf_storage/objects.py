"""What the stores for buckets share: the object behind an address, and the store that fetches and uploads it."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import attrs

from medperf_core.errors import AccessRefusedError, TransferError
from medperf_core.plugin import FetchInfo, FetchRequest, Storage, StoragePromise
from medperf_core.plugin.storage import PutRequest, Stored
from medperf_storage.object_http import Connections, Passing, Refusal
from medperf_storage.object_urls import ObjectUrl, parse
from medperf_storage.uploads import Memory

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse as Response

    from medperf_core.plugin import BackendContext, Sink


NOT_UPLOADED = "could not be uploaded"
NOT_FETCHED = "could not be fetched"


@attrs.frozen
class Found:
    """What is at an address.

    Attributes:
        sha256: that it was uploaded with, by whoever did; "" if it was not told.
    """

    stored: Stored
    sha256: str = ""

    def is_of(self, request: PutRequest) -> bool:
        """Whether it is the file of a request."""
        return (self.stored.size, self.sha256.lower()) == (request.size, request.sha256.lower())


class Remote(abc.ABC):
    """One object of a bucket, as its cloud is asked for it."""

    list_right: ClassVar[str]
    """What somebody must be allowed for a server to tell him that something is not there."""

    def __init__(self, url: ObjectUrl, connections: Connections, memory: Memory) -> None:
        self.url = url
        self.connections = connections
        self.memory = memory

    @abc.abstractmethod
    def open(self, start: int, end: int, version: str) -> Response:
        """An answer with bytes ``start`` to ``end`` (not included) or fewer, if the content is of ``version``; to be
        closed. Raises as ``Connections.answer`` does.
        """

    @abc.abstractmethod
    def version_of(self, response: Response) -> str:
        """The version of the content that an answer is about."""

    @property
    @abc.abstractmethod
    def heeds_conditions(self) -> bool:
        """Whether the server is known to refuse what would replace something, when it is asked to."""

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """Where it is, for this site; tells one server's buckets from another's."""

    @abc.abstractmethod
    def found(self) -> Found | None:
        """What is there; raises as ``Connections.answer`` does."""

    def look(self) -> Stored | None:
        """What is there; raises as ``Connections.answer`` does."""
        found = self.found()
        return found.stored if found else None

    def is_mine(self, request: PutRequest) -> Stored | None:
        """What is there, if it is the file of a request; raises as ``Connections.answer`` does."""
        found = self.found()
        return found.stored if found is not None and found.is_of(request) else None

    def check_free(self, what: str, request: PutRequest | None = None) -> None:
        """Look whether something is there, for servers that would replace it in spite of the condition.

        Args:
            request: a small file, for which the look is left out where it cannot tell anything new.

        Raises:
            TransferError: there is.
        """
        if request is not None and (request.absent or self.heeds_conditions):
            return
        if self.seen(what) is not None:
            raise taken(self.url)

    def seen(self, what: str) -> Found | None:
        """What is there, as far as anybody can tell who perhaps may only write."""
        try:
            return self.connections.patiently(what, self.found)
        except Refusal as refusal:
            if refusal.status != 403:
                raise
            return None

    def surely(self, what: str, request: PutRequest, store: Callable[[], Stored]) -> Stored:
        """Do what puts a file at its address until it is there. Where an answer was lost, a later refusal or the end of
        all attempts may mean that it had been done; so what is there is looked at."""
        lost = False

        def once() -> Stored:
            nonlocal lost
            try:
                return store()
            except Passing:
                lost = True
                raise
            except Refusal as refusal:
                mine = self.is_mine(request) if lost and refusal.status in (404, 412) else None
                if mine is None:
                    raise
                return mine

        try:
            return self.connections.patiently(what, once)
        except TransferError:
            mine = None
            if lost:
                with contextlib.suppress(Passing, Refusal, TransferError):
                    mine = self.is_mine(request)
            if mine is None:
                raise
            return mine

    @abc.abstractmethod
    def has_bucket(self) -> bool:
        """Whether the bucket is there, as far as anybody can tell; raises Passing or TransferError."""

    @property
    @abc.abstractmethod
    def server(self) -> str:
        """Who is asked, for messages."""

    @abc.abstractmethod
    def is_change(self, refusal: Refusal) -> bool:
        """Whether a request for a certain version was refused because something else is there now."""

    @abc.abstractmethod
    def words(self, refusal: Refusal, what: str) -> TransferError:
        """A refusal for people. ``what`` could not be done, such as "could not be fetched"."""

    @abc.abstractmethod
    def put(self, request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        """Upload; raises TransferError, CancelledError or Refusal."""


class BucketStorage(Storage):
    """A store whose files are objects of buckets."""

    promises = frozenset(
        {
            StoragePromise.NETWORK,
            StoragePromise.SIZE,
            StoragePromise.VERSION,
            StoragePromise.RETRIES,
            StoragePromise.RESUME,
            StoragePromise.UPLOAD,
        }
    )
    context: BackendContext

    @abc.abstractmethod
    def remote(self, url: ObjectUrl) -> Remote:
        """The object at an address. May look for credentials, so it is called only where connections may be opened."""

    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        from medperf_storage.object_ranges import RangeFetch

        url = self.address(request.url)
        self.context.require_network(f"fetching {url}")
        self.context.cancel.raise_if_cancelled()
        return RangeFetch(self.remote(url), request, sink).run()

    def look(self, url: str) -> Stored | None:
        address = self.address(url)
        self.context.require_network(f"looking at {address}")
        remote = self.remote(address)
        try:
            what = f"{address} could not be looked at"
            found = remote.connections.patiently(what, remote.look)
            if found is None and not remote.connections.patiently(what, remote.has_bucket):
                raise TransferError(
                    f"There is no bucket {address.bucket} at {remote.server}.",
                    hint=f"Make the bucket, or check its name and the setting {address.scheme}.endpoint.",
                )
            return found
        except Refusal as refusal:
            error = remote.words(refusal, "could not be looked at")
            if refusal.status != 403:
                raise error from None
            if refusal.code in ("", "AccessDenied"):
                error.hint = (
                    f"{error.hint} Without {remote.list_right}, what is not there looks as if it were forbidden."
                )
            raise error from None

    def put(self, request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        url = self.address(request.url)
        if url.version:
            raise TransferError(
                f"{url} names a version, which is given by the store.", hint="Upload to an address without one."
            )
        self.context.require_network(f"uploading to {url}")
        self.context.cancel.raise_if_cancelled()
        remote = self.remote(url)
        try:
            return remote.put(request, on_bytes)
        except Refusal as refusal:
            raise remote.words(refusal, NOT_UPLOADED) from None

    def address(self, url: str) -> ObjectUrl:
        """``url``, read and checked."""
        return parse(url, self.redact(url))


def refused(url: ObjectUrl, what: str, refusal: Refusal, hint: str) -> TransferError:
    """A refusal for people; of the class that says that whoever asks like that does not get it, if it means that."""
    kind = AccessRefusedError if refusal.status in (401, 403, 404) else TransferError
    return kind(f"{url} {what}: {refusal}.", hint=hint)


def access_hint(url: ObjectUrl, what: str, source: str, *, anonymous: bool) -> str:
    """What to do about a refusal of access.

    Args:
        what: could not be done.
        source: who asked, in words.
        anonymous: whether that was nobody.
    """
    hint = f"It was asked for anonymously: {source}." if anonymous else f"It was asked for with {source}."
    if what == NOT_FETCHED:
        return f"{hint} Ask the bucket's owner for access, or to let everybody read it."
    if anonymous:
        return f"{hint} Uploading needs credentials: medperf auth store {url.scheme}://{url.bucket}"
    return f"{hint} Check the secret key, or ask the bucket's owner for the right to upload."


def taken(url: ObjectUrl) -> TransferError:
    """Something is where a file was to be uploaded to."""
    return TransferError(
        f"There is something at {url} already; it was not replaced.",
        hint="Upload to another name, or remove what is there if nobody uses it.",
    )

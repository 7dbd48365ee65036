"""What the stores for buckets share: the object behind an address, and the store that fetches and uploads it."""

from __future__ import annotations

import abc
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import requests

from medperf_core.errors import TransferError
from medperf_core.plugin import FetchInfo, FetchRequest, Storage, StoragePromise
from medperf_core.plugin.storage import PutRequest, Stored
from medperf_storage.object_http import Connections, Refusal
from medperf_storage.object_urls import ObjectUrl, parse

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext, Sink


class Remote(abc.ABC):
    """One object of a bucket, as its cloud is asked for it."""

    def __init__(self, url: ObjectUrl, connections: Connections) -> None:
        self.url = url
        self.connections = connections

    @abc.abstractmethod
    def open(self, start: int, end: int, version: str) -> AbstractContextManager[requests.Response]:
        """An answer with bytes ``start`` to ``end`` (not included) or fewer, if the content is of ``version``.

        Raises as ``Connections.answer`` does.
        """

    @abc.abstractmethod
    def version_of(self, response: requests.Response) -> str:
        """The version of the content that an answer is about."""

    @abc.abstractmethod
    def look(self) -> Stored | None:
        """What is there; raises as ``Connections.answer`` does."""

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
            return remote.connections.patiently(f"{address} could not be looked at", remote.look)
        except Refusal as refusal:
            raise remote.words(refusal, "could not be looked at") from None

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
            raise remote.words(refusal, "could not be uploaded") from None

    def address(self, url: str) -> ObjectUrl:
        """``url``, read and checked."""
        return parse(url, self.redact(url))


def taken(url: ObjectUrl) -> TransferError:
    """Something is where a file was to be uploaded to."""
    return TransferError(
        f"There is something at {url} already; it was not replaced.",
        hint="Upload to another name, or remove what is there if nobody uses it.",
    )

"""How the storage kit asks for a file: as a site does, with sinks that watch what a store does to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from medperf_core.errors import CancelledError, MedperfError, TransferError
from medperf_core.plugin.context import BackendContext, CancelToken
from medperf_core.plugin.descriptors import StoragePlugin
from medperf_core.plugin.events import Event
from medperf_core.plugin.storage import FetchInfo, FetchRequest, Sink, Storage, StoragePromise
from medperf_core.plugin.testing.promises import not_promised

Place = Callable[[bytes, str], str]
"""Puts a file with this content and name where the store finds it; gives its address. The same name again replaces
the file."""

_WORDS = {
    StoragePromise.NETWORK: "to reach files by network",
    StoragePromise.LOCAL: "addresses that can name this machine",
    StoragePromise.SIZE: "the size of a file before its first byte",
    StoragePromise.VERSION: "a version of a file",
    StoragePromise.RETRIES: "to try again by itself",
    StoragePromise.RESUME: "to go on where it was interrupted",
    StoragePromise.UPLOAD: "to take files",
}


@attrs.define
class CheckedSink:
    """Keeps what it gets, and holds a store to the rules of ``Sink``.

    Attributes:
        limit: more bytes than this are refused.
        cancel: once it is set, nothing more is taken.
        kept: bytes that were there before the store began.
        expected: the sizes that were told since the last restart.
        version: the version that was told last.
        restarts: how often everything was forgotten.
    """

    limit: int = 1 << 30
    cancel: CancelToken = attrs.field(factory=CancelToken)
    data: bytes = b""
    kept: int = 0
    expected: list[int | None] = attrs.field(factory=list)
    version: str = ""
    restarts: int = 0

    def expect(self, size: int | None, version: str = "") -> None:
        assert len(self.data) == self.kept, "a size was told after bytes had come"
        self.expected.append(size)
        self.version = version

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes), f"the sink got a {type(data).__name__}, not bytes"
        if self.cancel.cancelled:
            raise CancelledError("The work was interrupted.")
        self.data += data
        if len(self.data) > self.limit:
            raise TransferError(f"More than {self.limit} bytes came.")

    def restart(self) -> None:
        self.data = b""
        self.kept = 0
        self.expected.clear()
        self.restarts += 1

    @property
    def written(self) -> int:
        return len(self.data)


@attrs.define
class CountingSink:
    """Keeps no bytes, only how many there were and how many came at once."""

    written: int = 0
    largest: int = 0

    def expect(self, size: int | None, version: str = "") -> None:
        """Any size will do."""

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self.largest = max(self.largest, len(data))

    def restart(self) -> None:
        self.written = 0


@attrs.define
class BrokenSink:
    """Refuses the first bytes, and counts what is asked of it after that."""

    reason: MedperfError
    refused: bool = False
    after: int = 0
    written: int = 0

    def expect(self, size: int | None, version: str = "") -> None:
        self.after += self.refused

    def write(self, data: bytes) -> None:
        self.after += self.refused
        self.refused = True
        raise self.reason

    def restart(self) -> None:
        self.after += self.refused


class Fetching:
    """A store as a site has it, and the sink and events of the last fetch."""

    def __init__(self, plugin: StoragePlugin, settings: Any, site: Path) -> None:
        self.plugin = plugin
        self.sink = CheckedSink()
        self.events: list[Event] = []
        self._settings = settings
        self._cache, self._temp = site / "cache", site / "temp"
        for folder in (self._cache, self._temp):
            folder.mkdir(parents=True)

    def storage(self, **context: Any) -> Storage:
        """The store, made for a site with these values of ``BackendContext``."""
        return self.plugin.make(
            self._settings,
            BackendContext(cache_dir=self._cache, temp_dir=self._temp, emit=self.events.append, **context),
        )

    def fetch(
        self,
        url: str,
        *,
        allow_local: bool = True,
        max_bytes: int = 1 << 30,
        sink: Sink | None = None,
        storage: Storage | None = None,
        version: str = "",
        **context: Any,
    ) -> FetchInfo:
        """Fetch into ``sink``, or else into a new ``CheckedSink``, and check what every fetch promises.

        With ``version``, what the sink holds already is of that version, and the store is to go on.
        """
        self.events.clear()
        self.sink = sink if isinstance(sink, CheckedSink) else CheckedSink(limit=max_bytes)
        into: Sink = sink or self.sink
        request = FetchRequest(url, allow_local, max_bytes, into.written if version else 0, version)
        info = (storage or self.storage(**context)).fetch(request, into)
        assert info.size in (None, into.written), f"it told {info.size} bytes and gave {into.written}"
        if into is self.sink:
            assert set(self.sink.expected) <= {None, into.written}, "another number of bytes was told than came"
        return info

    def need(self, promise: StoragePromise) -> None:
        """Skip the test of what the store does not promise, by name."""
        if promise not in self.storage().promises:
            not_promised(self.plugin.name, _WORDS[promise])

    def check_left(self) -> None:
        """Nothing of the work may be left in the site's folders but in a folder of the backend's own name."""
        assert not list(self._temp.iterdir()), "something was left in the temporary folder"
        assert {each.name for each in self._cache.iterdir()} <= {self.plugin.name}, "something lies about in the cache"

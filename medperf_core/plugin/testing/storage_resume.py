"""Tests of stores that promise ``RESUME``: going on at any byte, and never with another file. Part of
``StorageContract``."""

from __future__ import annotations

import os

import pytest

from medperf_core.errors import TransferError
from medperf_core.plugin.storage import StoragePromise
from medperf_core.plugin.testing.fetching import CheckedSink, Fetching, Place
from medperf_core.plugin.testing.relay import Relay

SIZE = 300_000


class ResumeTests:
    """What a store does with bytes that are there already."""

    @pytest.mark.parametrize("start", [1, 4096, SIZE // 2, SIZE - 1])
    def test_a_later_fetch_goes_on(self, start: int, fetching: Fetching, place: Place) -> None:
        fetching.need(StoragePromise.RESUME)
        content = os.urandom(SIZE)
        url = place(content, "file.bin")
        version = fetching.fetch(url).version
        assert version, "without a version nobody can tell whether it is still the same file"
        assert fetching.sink.version == version, "the sink was not told the version before the bytes"
        sink = CheckedSink(data=content[:start], kept=start)
        fetching.fetch(url, sink=sink, version=version)
        assert (sink.data, sink.restarts) == (content, 0)

    def test_another_file_is_begun_anew(self, fetching: Fetching, place: Place) -> None:
        fetching.need(StoragePromise.RESUME)
        old, new = os.urandom(SIZE), os.urandom(SIZE + 1)
        version = fetching.fetch(place(old, "file.bin")).version
        sink = CheckedSink(data=old[:1000], kept=1000)
        fetching.fetch(place(new, "file.bin"), sink=sink, version=version)
        assert (sink.data, sink.restarts) == (new, 1)

    @pytest.mark.parametrize("after", [70_000, 250_000])
    def test_a_cut_transfer_goes_on_where_it_was(
        self, after: int, fetching: Fetching, place: Place, relay: Relay
    ) -> None:
        fetching.need(StoragePromise.RESUME)
        fetching.need(StoragePromise.NETWORK)
        content = os.urandom(SIZE)
        url = place(content, "file.bin")
        relay.cut(after, times=1)
        fetching.fetch(url)
        assert (relay.cuts, fetching.sink.data, fetching.sink.restarts) == (1, content, 0)

    def test_a_file_that_changes_half_way_is_never_mixed(self, fetching: Fetching, place: Place, relay: Relay) -> None:
        fetching.need(StoragePromise.RESUME)
        fetching.need(StoragePromise.NETWORK)
        old, new = os.urandom(SIZE), os.urandom(SIZE + 1)
        url = place(old, "file.bin")
        relay.on_cut = lambda: void(place(new, "file.bin"))
        relay.cut(150_000, times=1)
        try:
            fetching.fetch(url)
        except TransferError:
            return
        assert relay.cuts == 1 and fetching.sink.data == new


def void(_: object) -> None:
    """For a callback that gives nothing."""

"""The conformance kit of the storage seam.

Subclass ``StorageContract``, define the fixtures ``plugin`` and ``place``, and run pytest. What a store does not
promise (``Storage.promises``) is skipped by name.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from medperf_core.errors import CancelledError, MedperfError, OfflineError, TransferError
from medperf_core.plugin.context import CancelToken
from medperf_core.plugin.descriptors import StoragePlugin
from medperf_core.plugin.storage import FetchRequest, Storage, StoragePromise
from medperf_core.plugin.testing.common import check_descriptor, fill_in
from medperf_core.plugin.testing.fetching import BrokenSink, CheckedSink, CountingSink, Fetching, Place
from medperf_core.plugin.testing.promises import not_promised
from medperf_core.plugin.testing.relay import Relay
from medperf_core.plugin.testing.storage_resume import ResumeTests
from medperf_core.plugin.testing.storage_upload import UploadTests

__all__ = ["Place", "StorageContract"]

NAMES = ("plain.bin", "with space.bin", "ü+%41.bin", "a&b=c;d,e'f.bin", "..two.dots", "n" * 120)
SECRET = "hunter2-hunter2"


class StorageContract(ResumeTests, UploadTests):
    """What every store does, and what those that promise more do."""

    @pytest.fixture
    def plugin(self) -> StoragePlugin:
        """To be defined: the store's descriptor."""
        fill_in("StorageContract", "plugin", "the store's StoragePlugin")

    @pytest.fixture
    def place(self) -> Place:
        """To be defined: puts a file where the store finds it. What goes by network goes through ``relay``."""
        fill_in("StorageContract", "place", "a function (content, name) -> address")

    @pytest.fixture
    def settings(self, plugin: StoragePlugin) -> Any:
        """The store's settings; by default those that nobody changed."""
        return plugin.settings()

    @pytest.fixture
    def missing(self, place: Place) -> str:
        """An address like those of ``place``, where no file is."""
        return place(b"somebody else", "there.bin") + "-is-not-there"

    @pytest.fixture
    def relay(self) -> Iterator[Relay]:
        """The door before the server that a store reaches by network: ``relay.front(port)`` gives the port to use."""
        relay = Relay()
        yield relay
        relay.close()

    @pytest.fixture
    def fetching(self, plugin: StoragePlugin, settings: Any, tmp_path: Path) -> Iterator[Fetching]:
        fetching = Fetching(plugin, settings, tmp_path / "site")
        yield fetching
        fetching.check_left()

    def test_the_descriptor_is_usable(self, plugin: StoragePlugin, fetching: Fetching) -> None:
        check_descriptor(plugin, StoragePlugin)
        assert plugin.schemes, "it serves no scheme"
        assert all(scheme == scheme.lower() and ":" not in scheme for scheme in plugin.schemes)
        assert isinstance(fetching.storage(), Storage)

    @pytest.mark.parametrize("size", [0, 1, 3_000_017])
    def test_a_file_comes_whole_and_in_order(self, size: int, fetching: Fetching, place: Place) -> None:
        content = os.urandom(size)
        url = place(content, "file.bin")
        assert url.partition(":")[0].lower() in fetching.plugin.schemes, f"{url} is of a scheme that it does not serve"
        fetching.fetch(url)
        assert fetching.sink.data == content

    @pytest.mark.parametrize("name", NAMES)
    def test_names_are_kept_apart(self, name: str, fetching: Fetching, place: Place) -> None:
        place(b"another", "plain" if name != "plain" else "file")
        url = place(name.encode(), name)
        fetching.fetch(url)
        assert fetching.sink.data == name.encode()

    def test_one_store_fetches_again_and_again(self, fetching: Fetching, place: Place) -> None:
        storage = fetching.storage()
        for content in (b"first", b"second, longer", b"third"):
            url = place(content, f"{len(content)}.bin")
            for _ in range(2):
                fetching.fetch(url, storage=storage)
                assert fetching.sink.data == content

    def test_one_store_fetches_several_files_at_once(self, fetching: Fetching, place: Place) -> None:
        storage, files = fetching.storage(), {os.urandom(200_000 + number): CheckedSink() for number in range(4)}
        urls = {content: place(content, f"{number}.bin") for number, content in enumerate(files)}
        requests = {content: FetchRequest(url, True, 1 << 30) for content, url in urls.items()}
        with ThreadPoolExecutor(len(files)) as pool:
            list(pool.map(lambda content: storage.fetch(requests[content], files[content]), files))
        assert all(sink.data == content for content, sink in files.items()), "files were mixed up"

    def test_a_large_file_is_never_in_memory_as_a_whole(self, fetching: Fetching, place: Place) -> None:
        size = 24 << 20
        url = place(os.urandom(size), "large.bin")
        sink = CountingSink()
        tracemalloc.start()
        try:
            fetching.fetch(url, sink=sink)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert sink.written == size
        assert max(peak, sink.largest) < size // 3, f"{max(peak, sink.largest)} bytes of {size} were held at once"

    def test_what_is_too_large_is_an_error(self, fetching: Fetching, place: Place) -> None:
        url = place(bytes(5000), "file.bin")
        fetching.fetch(url, max_bytes=5000)
        with pytest.raises(TransferError):
            fetching.fetch(url, max_bytes=4999)

    def test_what_is_not_there_is_an_error_that_names_it(self, fetching: Fetching, missing: str) -> None:
        with pytest.raises(TransferError) as caught:
            fetching.fetch(missing)
        assert fetching.sink.data == b""
        assert "is-not-there" in caught.value.message, "the message does not say which file"
        assert caught.value.hint, "the error does not say what to try"

    def test_an_error_of_the_sink_ends_it_at_once(self, fetching: Fetching, place: Place) -> None:
        url = place(os.urandom(3_000_000), "file.bin")
        for reason in (TransferError("The disk is full."), CancelledError("The work was interrupted.")):
            sink = BrokenSink(reason)
            with pytest.raises(type(reason)) as caught:
                fetching.fetch(url, sink=sink)
            assert caught.value is reason, "the sink's own error is not handed on as it is"
            assert sink.after == 0, "it went on after the sink had refused"

    def test_a_cancelled_transfer_ends(self, fetching: Fetching, place: Place) -> None:
        url = place(os.urandom(3_000_000), "file.bin")
        token = CancelToken()
        token.cancel()
        with pytest.raises(CancelledError):
            fetching.fetch(url, sink=CheckedSink(cancel=token), cancel=token)

    @pytest.mark.parametrize(
        "rest", ["", "//", "///", "//[", "//h:99999/a", "../../../../etc/passwd", "///etc/passwd\0", "%00", "///\ud800"]
    )
    def test_nonsense_as_address_is_an_error_with_words(self, rest: str, fetching: Fetching) -> None:
        for scheme in fetching.plugin.schemes:
            with pytest.raises(MedperfError) as caught:
                fetching.fetch(f"{scheme}:{rest}")
            assert caught.value.message
            assert fetching.sink.data == b""
            fetching.storage().redact(f"{scheme}:{rest}")

    def test_an_address_without_end_is_an_error_with_words(self, fetching: Fetching) -> None:
        with pytest.raises(MedperfError):
            fetching.fetch(f"{fetching.plugin.schemes[0]}:///{'a' * 100_000}")

    def test_secrets_of_an_address_are_not_told(self, fetching: Fetching, missing: str) -> None:
        scheme, _, rest = missing.partition("://")
        addresses = [f"{missing}?token={SECRET}", f"{missing}#{SECRET}"]
        addresses += [f"{scheme}://user:{SECRET}@{rest}"] if rest else []
        for address in addresses:
            assert SECRET not in fetching.storage().redact(address)
            with pytest.raises(MedperfError) as caught:
                fetching.fetch(address)
            assert SECRET not in str(caught.value), "the error tells the secret"
            assert SECRET not in repr(fetching.events), "an event tells the secret"

    def test_a_size_is_told_before_the_first_byte(self, fetching: Fetching, place: Place) -> None:
        fetching.need(StoragePromise.SIZE)
        info = fetching.fetch(place(bytes(5000), "file.bin"))
        assert (fetching.sink.expected, info.size) == ([5000], 5000)
        with pytest.raises(TransferError):
            fetching.fetch(place(bytes(5001), "file.bin"), max_bytes=5000)
        assert fetching.sink.data == b"", "it began a file that it knew to be too large"

    def test_a_version_changes_with_the_content(self, fetching: Fetching, place: Place) -> None:
        fetching.need(StoragePromise.VERSION)
        url = place(b"one", "file.bin")
        first = fetching.fetch(url).version
        assert first, "no version was told"
        assert fetching.fetch(url).version == first
        assert fetching.fetch(place(b"another", "file.bin")).version != first

    def test_an_address_of_this_machine_needs_leave(self, fetching: Fetching, place: Place, relay: Relay) -> None:
        fetching.need(StoragePromise.LOCAL)
        url = place(b"patient", "file.bin")
        before = relay.connections
        with pytest.raises(TransferError) as caught:
            fetching.fetch(url, allow_local=False)
        assert fetching.sink.data == b"" and relay.connections == before
        assert caught.value.hint, "the error does not say what to do"

    def test_a_store_of_this_machine_works_offline(self, fetching: Fetching, place: Place) -> None:
        if StoragePromise.NETWORK in fetching.storage().promises:
            not_promised(fetching.plugin.name, "to work offline")
        fetching.fetch(place(b"here", "file.bin"), offline=True)
        assert fetching.sink.data == b"here"

    def test_offline_opens_no_connection(self, fetching: Fetching, place: Place, relay: Relay) -> None:
        fetching.need(StoragePromise.NETWORK)
        url = place(b"far", "file.bin")
        fetching.fetch(url)
        assert relay.connections, "the fixture `place` does not lead through the relay: see `relay.front`"
        before = relay.connections
        with pytest.raises(OfflineError):
            fetching.fetch(url, offline=True)
        assert relay.connections == before, "a connection was opened while offline"

    @pytest.mark.parametrize("after", [0, 1, 100, 70_000, 250_000])
    def test_a_cut_transfer_is_never_taken_for_a_whole_one(
        self, after: int, fetching: Fetching, place: Place, relay: Relay
    ) -> None:
        fetching.need(StoragePromise.NETWORK)
        content = os.urandom(300_000)
        url = place(content, "file.bin")
        relay.cut(after, times=1_000_000)
        try:
            fetching.fetch(url)
        except TransferError:
            pass
        else:  # a store that goes on at any byte comes to the end all the same
            assert StoragePromise.RESUME in fetching.storage().promises
            assert fetching.sink.data == content
        assert relay.cuts

    @pytest.mark.parametrize("after", [0, 1, 100, 70_000, 250_000])
    def test_a_cut_transfer_is_tried_again(self, after: int, fetching: Fetching, place: Place, relay: Relay) -> None:
        fetching.need(StoragePromise.RETRIES)
        content = os.urandom(300_000)
        url = place(content, "file.bin")
        relay.cut(after, times=1)
        fetching.fetch(url)
        assert (relay.cuts, fetching.sink.data) == (1, content)

    def test_a_cancelled_transfer_is_not_tried_again(self, fetching: Fetching, place: Place, relay: Relay) -> None:
        fetching.need(StoragePromise.RETRIES)
        url = place(os.urandom(300_000), "file.bin")
        token = CancelToken()
        relay.on_cut = token.cancel
        relay.cut(100, times=1)
        before = relay.connections
        with pytest.raises(CancelledError):
            fetching.fetch(url, cancel=token)
        assert relay.connections == before + 1, "it connected again after it was cancelled"

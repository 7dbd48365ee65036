"""Stores that break one promise each, and two that break none. Not collected; see test_kit_mutations.py."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urlsplit

import attrs
import pytest
from medperf_storage.http import HttpStorage
from medperf_storage.settings import HttpSettings

from medperf_core.builtin.file import FileStorage
from medperf_core.errors import MedperfError, TransferError
from medperf_core.plugin import BackendContext, CancelToken, FetchInfo, FetchRequest, Sink, Storage, StoragePlugin
from medperf_core.plugin.storage import StoragePromise, Stored
from medperf_core.plugin.testing.relay import Relay
from medperf_core.plugin.testing.storages import Place, StorageContract
from tests.engines import require


class Files(FileStorage):
    """The ``file`` store, which mutants may ask for its site."""

    def __init__(self, context: BackendContext) -> None:
        self.context = context


class OfFiles(StorageContract):
    """The ``file`` store, or what a subclass makes of it."""

    store: ClassVar[type[Files]] = Files
    caught_by: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def plugin(self) -> StoragePlugin:
        def make(settings: Any, context: BackendContext) -> Storage:
            return self.store(context)

        return StoragePlugin(name="file", summary="files", api=1, schemes=("file",), make=make)

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        def put(content: bytes, name: str) -> str:
            (tmp_path / name).write_bytes(content)
            return f"file://{quote(os.fsencode(tmp_path / name))}"

        return put


class OfServer(StorageContract):
    """The ``http`` store, or what a subclass makes of it."""

    store: ClassVar[type[HttpStorage]] = HttpStorage
    attempts: ClassVar[int] = 2
    caught_by: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def plugin(self) -> StoragePlugin:
        return StoragePlugin(name="http", summary="web", api=1, schemes=("http",), make=self.store)

    @pytest.fixture
    def settings(self) -> HttpSettings:
        return HttpSettings(attempts=self.attempts, pause=0)

    @pytest.fixture
    def place(self, relay: Relay) -> Iterator[Place]:
        engine = require("nginx")
        door = relay.front(urlsplit(engine["MEDPERF_TEST_NGINX_HTTP"]).port or 0)
        folder = Path(engine["MEDPERF_TEST_NGINX_ROOT"], f"mutants-{uuid.uuid4().hex}")
        folder.mkdir()

        def put(content: bytes, name: str) -> str:
            (folder / name).write_bytes(content)
            return f"http://127.0.0.1:{door}/{folder.name}/{quote(name)}"

        yield put
        shutil.rmtree(folder)


@attrs.define
class Between:
    """A sink that passes on to another one, for mutants to change."""

    to: Sink

    def expect(self, size: int | None, version: str = "") -> None:
        self.to.expect(size, version)

    def write(self, data: bytes) -> None:
        self.to.write(data)

    def restart(self) -> None:
        self.to.restart()

    @property
    def written(self) -> int:
        return self.to.written


class TestSoundFiles(OfFiles):
    pass


class TestSoundServer(OfServer):
    pass


class TestShortens(OfFiles):
    caught_by = ("test_a_file_comes_whole_and_in_order",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            class Short(Between):
                def write(self, data: bytes) -> None:
                    self.to.write(data[:1000])

            try:
                return super().fetch(request, Short(sink))
            except TransferError:
                return FetchInfo()


class TestHoldsAll(OfFiles):
    caught_by = ("test_a_large_file_is_never_in_memory_as_a_whole",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            content = Path(unquote(urlsplit(request.url).path)).read_bytes()
            for start in range(0, len(content), 1 << 16):
                sink.write(content[start : start + (1 << 16)])
            return FetchInfo()


class TestKnowsNoLimit(OfFiles):
    caught_by = ("test_a_size_is_told_before_the_first_byte",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            return super().fetch(attrs.evolve(request, max_bytes=1 << 40), sink)


class TestTellsNoSize(OfFiles):
    caught_by = ("test_a_size_is_told_before_the_first_byte",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            class Silent(Between):
                def expect(self, size: int | None, version: str = "") -> None:
                    self.to.expect(None)

            return super().fetch(request, Silent(sink))


class TestGoesOnAfterTheSink(OfFiles):
    caught_by = ("test_an_error_of_the_sink_ends_it_at_once", "test_a_cancelled_transfer_ends")

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            try:
                return super().fetch(request, sink)
            except MedperfError as error:
                sink.restart()
                raise TransferError("It failed.", hint="Try again.") from error


class TestFollowsEverybody(OfFiles):
    caught_by = ("test_an_address_of_this_machine_needs_leave",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            return super().fetch(attrs.evolve(request, allow_local=True), sink)


class TestTellsSecrets(OfFiles):
    caught_by = ("test_secrets_of_an_address_are_not_told",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            try:
                return super().fetch(request, sink)
            except TransferError as error:
                raise TransferError(f"{request.url} failed: {error}", hint=error.hint) from error


class TestTellsSecretsWhenAsked(OfFiles):
    caught_by = ("test_secrets_of_an_address_are_not_told",)

    class store(Files):
        def redact(self, url: str) -> str:
            return url


class TestFailsWithoutWords(OfFiles):
    caught_by = ("test_nonsense_as_address_is_an_error_with_words",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            Path(urlsplit(request.url).path).exists()
            return super().fetch(request, sink)


class TestTakesNothingForEmpty(OfFiles):
    caught_by = ("test_what_is_not_there_is_an_error_that_names_it",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            try:
                return super().fetch(request, sink)
            except TransferError:
                return FetchInfo(size=0)


class TestNamesNothing(OfFiles):
    caught_by = ("test_what_is_not_there_is_an_error_that_names_it",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            try:
                return super().fetch(request, sink)
            except TransferError as error:
                raise TransferError("The file cannot be had.", hint=error.hint) from error


class TestDecodesTwice(OfFiles):
    caught_by = ("test_names_are_kept_apart",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            return super().fetch(attrs.evolve(request, url=unquote(request.url)), sink)


class TestLeavesFiles(OfFiles):
    caught_by = ("test_a_file_comes_whole_and_in_order",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            (self.context.temp_dir / "left").touch()
            return super().fetch(request, sink)


class TestConnectsOffline(OfServer):
    caught_by = ("test_offline_opens_no_connection",)

    class store(HttpStorage):
        def __init__(self, settings: HttpSettings, context: BackendContext) -> None:
            super().__init__(settings, attrs.evolve(context, offline=False))


class TestTakesCutForWhole(OfServer):
    caught_by = ("test_a_cut_transfer_is_never_taken_for_a_whole_one",)

    class store(HttpStorage):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            try:
                return super().fetch(request, sink)
            except TransferError:
                return FetchInfo(size=sink.written)


class WithoutRanges(HttpStorage):
    """Sound, but begins anew with every attempt."""

    promises = HttpStorage.promises - {StoragePromise.RESUME}

    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        return super().fetch(attrs.evolve(request, start=0, version="", whole=True), sink)


class TestSoundServerWithoutRanges(OfServer):
    store = WithoutRanges


class TestGivesUp(OfServer):
    attempts = 1
    store = WithoutRanges
    caught_by = ("test_a_cut_transfer_is_tried_again",)


class TestDoesNotBeginAnew(OfServer):
    caught_by = ("test_a_cut_transfer_is_tried_again",)

    class store(WithoutRanges):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            class Heap(Between):
                def restart(self) -> None:
                    pass

            return super().fetch(request, Heap(sink))


class TestHasOneVersion(OfServer):
    caught_by = ("test_a_version_changes_with_the_content",)

    class store(HttpStorage):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            return attrs.evolve(super().fetch(request, sink), version="1")


class TestDoesNotHearOfCancelling(OfServer):
    caught_by = ("test_a_cancelled_transfer_is_not_tried_again",)

    class store(HttpStorage):
        def __init__(self, settings: HttpSettings, context: BackendContext) -> None:
            super().__init__(settings, attrs.evolve(context, cancel=CancelToken()))


class TestIsOfAnotherApi(OfFiles):
    caught_by = ("test_the_descriptor_is_usable",)

    @pytest.fixture
    def plugin(self) -> StoragePlugin:
        return StoragePlugin(
            name="file", summary="files", api=7, schemes=("file",), make=lambda settings, context: Files(context)
        )


class TestRemembersTheFirst(OfFiles):
    caught_by = ("test_one_store_fetches_again_and_again",)

    class store(Files):
        url = ""

        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            self.url = self.url or request.url
            return super().fetch(attrs.evolve(request, url=self.url), sink)


class TestTruncates(OfFiles):
    caught_by = ("test_what_is_too_large_is_an_error",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            try:
                return super().fetch(request, sink)
            except TransferError:
                return FetchInfo()


class TestDiesOfLength(OfFiles):
    caught_by = ("test_an_address_without_end_is_an_error_with_words",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            Path(urlsplit(request.url).path).stat()
            return super().fetch(request, sink)


class TestNeedsTheNetwork(OfFiles):
    caught_by = ("test_a_store_of_this_machine_works_offline",)

    class store(Files):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            self.context.require_network("fetching a file")
            return super().fetch(request, sink)


class TestTakesFilesUnsaid(OfFiles):
    caught_by = ("test_a_store_that_takes_no_files_says_so",)

    class store(Files):
        promises = frozenset({StoragePromise.LOCAL, StoragePromise.SIZE})

        def look(self, url: str) -> Stored | None:
            return None


class Resuming(HttpStorage):
    """Says that it goes on, and begins anew with every attempt."""

    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        whole = attrs.evolve(request, start=0, version="", whole=True)
        if sink.written:
            sink.restart()
        try:
            return super().fetch(whole, sink)
        except TransferError:
            return super().fetch(whole, self.anew(sink))

    def anew(self, sink: Sink) -> Sink:
        sink.restart()
        return sink


class TestBeginsAnew(OfServer):
    attempts = 1
    store = Resuming
    caught_by = ("test_a_later_fetch_goes_on", "test_a_cut_transfer_goes_on_where_it_was")


class TestMixesFiles(OfServer):
    attempts = 1
    caught_by = ("test_a_file_that_changes_half_way_is_never_mixed",)

    class store(Resuming):
        def anew(self, sink: Sink) -> Sink:
            class Rest(Between):
                skipped = sink.written

                def expect(self, size: int | None, version: str = "") -> None:
                    pass

                def restart(self) -> None:
                    pass

                def write(self, data: bytes) -> None:
                    kept = data[self.skipped :]
                    self.skipped = max(0, self.skipped - len(data))
                    if kept:
                        self.to.write(kept)

            return Rest(sink)

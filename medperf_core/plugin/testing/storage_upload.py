"""Tests of stores that promise ``UPLOAD``: a file is there whole or not at all, and is never replaced. Part of
``StorageContract``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest

from medperf_core.errors import AccessRefusedError, CancelledError, OfflineError, TransferError
from medperf_core.plugin.storage import PutRequest, StoragePromise, Stored
from medperf_core.plugin.testing.fetching import Fetching, Place
from medperf_core.plugin.testing.promises import not_promised
from medperf_core.plugin.testing.relay import Relay

SIZE = 300_000


def request(url: str, folder: Path, content: bytes) -> PutRequest:
    """An upload of a file with this content."""
    path = folder / "upload.bin"
    path.write_bytes(content)
    return PutRequest(url, path, len(content), hashlib.sha256(content).hexdigest())


class UploadTests:
    """What a store does with files that it is given, at an address where nothing was."""

    @pytest.mark.parametrize("size", [0, 1, SIZE])
    def test_an_uploaded_file_comes_back(self, size: int, fetching: Fetching, missing: str, tmp_path: Path) -> None:
        fetching.need(StoragePromise.UPLOAD)
        storage, content, steps = fetching.storage(), os.urandom(size), list[int]()
        assert storage.look(missing) is None
        stored = storage.put(request(missing, tmp_path, content), steps.append)
        assert stored.size == sum(steps) == size
        assert storage.look(missing) == stored
        fetching.fetch(missing)
        assert fetching.sink.data == content

    def test_several_files_are_uploaded_at_once(self, fetching: Fetching, missing: str, tmp_path: Path) -> None:
        fetching.need(StoragePromise.UPLOAD)
        storage, contents = (
            fetching.storage(),
            {f"{missing}-{number}": os.urandom(SIZE + number) for number in range(4)},
        )
        steps: dict[str, list[int]] = {url: [] for url in contents}

        def put(url: str) -> Stored:
            folder = tmp_path / url.rpartition("-")[2]
            folder.mkdir()
            return storage.put(request(url, folder, contents[url]), steps[url].append)

        with ThreadPoolExecutor(len(contents)) as pool:
            list(pool.map(put, contents))
        for url, content in contents.items():
            assert sum(steps[url]) == len(content), "bytes of one file were told as those of another"
            fetching.fetch(url)
            assert fetching.sink.data == content, "files were mixed up"

    def test_what_is_there_is_never_replaced(self, fetching: Fetching, place: Place, tmp_path: Path) -> None:
        fetching.need(StoragePromise.UPLOAD)
        for old, new in ((b"old", b"newer"), (b"", b"newer"), (b"same", b"same")):
            url = place(old, "file.bin")
            for absent in (False, True):  # what the caller saw may be over
                with pytest.raises(TransferError):
                    again = attrs.evolve(request(url, tmp_path, new), absent=absent)
                    fetching.storage().put(again, lambda _: None)
            fetching.fetch(url)
            assert fetching.sink.data == old, "it was replaced"

    def test_a_file_that_is_not_what_was_said_is_not_stored(
        self, fetching: Fetching, missing: str, tmp_path: Path
    ) -> None:
        fetching.need(StoragePromise.UPLOAD)
        good = request(missing, tmp_path, os.urandom(SIZE))
        for wrong in (
            attrs.evolve(good, sha256="0" * 64),
            attrs.evolve(good, size=SIZE - 1),
            attrs.evolve(good, size=SIZE + 1),
            attrs.evolve(good, path=tmp_path / "nothing"),
        ):
            with pytest.raises(TransferError):
                fetching.storage().put(wrong, lambda _: None)
            assert fetching.storage().look(missing) is None

    def test_a_cancelled_upload_leaves_nothing(self, fetching: Fetching, missing: str, tmp_path: Path) -> None:
        fetching.need(StoragePromise.UPLOAD)
        storage, content = fetching.storage(), os.urandom(SIZE)
        reason = CancelledError("The work was interrupted.")

        def unwanted(_: int) -> None:
            raise reason

        with pytest.raises(CancelledError):
            storage.put(request(missing, tmp_path, content), unwanted)
        assert storage.look(missing) is None, "a part of a cancelled upload can be seen"
        assert storage.put(request(missing, tmp_path, content), lambda _: None).size == SIZE

    def test_an_upload_without_an_answer_is_whole_or_not_there(
        self, fetching: Fetching, missing: str, tmp_path: Path, relay: Relay
    ) -> None:
        fetching.need(StoragePromise.UPLOAD)
        fetching.need(StoragePromise.NETWORK)
        relay.cut(0, times=1_000_000)
        with pytest.raises(TransferError):
            fetching.storage().put(request(missing, tmp_path, os.urandom(SIZE)), lambda _: None)
        relay.cut(0, times=0)
        found = fetching.storage().look(missing)
        assert found is None or found.size == SIZE

    def test_nothing_is_uploaded_offline(self, fetching: Fetching, missing: str, tmp_path: Path, relay: Relay) -> None:
        fetching.need(StoragePromise.UPLOAD)
        fetching.need(StoragePromise.NETWORK)
        before, storage = relay.connections, fetching.storage(offline=True)
        uses: list[Callable[[], Any]] = [
            lambda: storage.put(request(missing, tmp_path, b"x"), lambda _: None),
            lambda: storage.look(missing),
        ]
        for use in uses:
            with pytest.raises(OfflineError):
                use()
        assert relay.connections == before, "a connection was opened while offline"

    def test_a_public_address_is_https_without_secrets(self, fetching: Fetching, missing: str) -> None:
        fetching.need(StoragePromise.UPLOAD)
        public = fetching.storage().public_url(missing)
        if public is not None:
            parts = urlsplit(public)
            assert parts.scheme == "https" and parts.hostname and not parts.query and "@" not in parts.netloc

    def test_somebody_without_an_account_reads_it_or_is_refused(self, fetching: Fetching, place: Place) -> None:
        fetching.need(StoragePromise.UPLOAD)
        url, asked = place(b"for everybody?", "file.bin"), list[str]()
        stranger = fetching.storage(credentials=asked.append).anonymous()
        if stranger is None:
            not_promised(fetching.plugin.name, "to ask without an account")
        try:
            fetching.fetch(url, storage=stranger)
        except AccessRefusedError:
            assert fetching.sink.data == b""
        else:
            assert fetching.sink.data == b"for everybody?"
        assert not asked, "it looked for stored credentials"

    def test_a_store_that_takes_no_files_says_so(self, fetching: Fetching, missing: str, tmp_path: Path) -> None:
        storage = fetching.storage()
        if StoragePromise.UPLOAD in storage.promises:
            not_promised(fetching.plugin.name, "to refuse every upload")
        uses: list[Callable[[], Any]] = [
            lambda: storage.put(request(missing, tmp_path, b"x"), lambda _: None),
            lambda: storage.look(missing),
            lambda: storage.public_url(missing),
        ]
        for use in uses:
            with pytest.raises(TransferError) as caught:
                use()
            assert caught.value.hint, "the error does not say what to do"

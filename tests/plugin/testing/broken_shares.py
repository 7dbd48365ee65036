"""A store that takes files and resumes, and some that break one of these promises. Not collected; see
test_kit_mutations.py."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote, urlsplit

import attrs
import pytest

from medperf_core.errors import TransferError
from medperf_core.plugin import FetchInfo, FetchRequest, Sink, Storage, StoragePlugin
from medperf_core.plugin.storage import PutRequest, StoragePromise, Stored
from medperf_core.plugin.testing.storages import Place, StorageContract


class ShareStorage(Storage):
    """A folder that takes files, too, and goes on where it was interrupted; ``share:NAME``."""

    promises = frozenset({StoragePromise.SIZE, StoragePromise.VERSION, StoragePromise.RESUME, StoragePromise.UPLOAD})
    replaces = False
    compares = True

    def __init__(self, root: Path) -> None:
        self._root = root

    def _path(self, url: str) -> Path:
        path = Path(os.path.normpath(self._root / unquote(urlsplit(url).path)))
        if path.parent != self._root or "\0" in str(path):
            raise TransferError(f"{self.redact(url)!r} is not in the share.", hint="Name one file.")
        return path

    def look(self, url: str) -> Stored | None:
        path = self._path(url)
        if not path.exists():
            return None
        status = path.stat()
        return Stored(status.st_size, f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}")

    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        try:
            found = self.look(request.url)
            if found is None:
                raise TransferError(f"{self.redact(request.url)} is not there.", hint="Check the name.")
            if found.size > request.max_bytes:
                raise TransferError(f"{self.redact(request.url)} is too large.", hint="Ask for less.")
            with self._path(request.url).open("rb") as stream:
                if request.start and self.compares and found.version != request.version:
                    sink.restart()
                stream.seek(sink.written)
                sink.expect(found.size, found.version)
                while data := stream.read(65536):
                    sink.write(data)
        except (OSError, ValueError) as error:
            raise TransferError(f"{self.redact(request.url)!r} cannot be read.", hint="Check the name.") from error
        return FetchInfo(found.size, found.version)

    def put(self, request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        path = self._path(request.url)
        try:
            content = request.path.read_bytes()
        except OSError as error:
            raise TransferError(f"{request.path} cannot be read.", hint="Check it.") from error
        if path.exists() and not self.replaces:
            raise TransferError(f"{path.name} is there already.", hint="Choose another name.")
        self.check(request, content)
        self.write(path, content, on_bytes)
        stored = self.look(request.url)
        assert stored
        return stored

    def check(self, request: PutRequest, content: bytes) -> None:
        if (len(content), hashlib.sha256(content).hexdigest()) != (request.size, request.sha256):
            raise TransferError(f"{request.path} is not what it was.", hint="Run it again.")

    def write(self, path: Path, content: bytes, on_bytes: Callable[[int], None]) -> None:
        on_bytes(len(content))
        path.write_bytes(content)

    def public_url(self, url: str) -> str | None:
        return None


class OfShare(StorageContract):
    """The store above, or what a subclass makes of it."""

    store: ClassVar[type[ShareStorage]] = ShareStorage
    caught_by: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "share").mkdir()
        return tmp_path / "share"

    @pytest.fixture
    def plugin(self, root: Path) -> StoragePlugin:
        return StoragePlugin(
            name="share", summary="a folder", api=1, schemes=("share",), make=lambda settings, context: self.store(root)
        )

    @pytest.fixture
    def place(self, root: Path) -> Place:
        def put(content: bytes, name: str) -> str:
            (root / name).write_bytes(content)
            return f"share:{quote(name)}"

        return put


class TestSoundShare(OfShare):
    caught_by = ()


class TestGoesOnWithAnotherFile(OfShare):
    caught_by = ("test_another_file_is_begun_anew",)

    class store(ShareStorage):
        compares = False


class TestNeverGoesOn(OfShare):
    caught_by = ("test_a_later_fetch_goes_on",)

    class store(ShareStorage):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            return super().fetch(attrs.evolve(request, version="", start=request.start), sink)


class TestReplaces(OfShare):
    caught_by = ("test_what_is_there_is_never_replaced",)

    class store(ShareStorage):
        replaces = True


class TestStoresAnything(OfShare):
    caught_by = ("test_a_file_that_is_not_what_was_said_is_not_stored",)

    class store(ShareStorage):
        def check(self, request: PutRequest, content: bytes) -> None:
            pass


class TestShowsParts(OfShare):
    caught_by = ("test_a_cancelled_upload_leaves_nothing",)

    class store(ShareStorage):
        def write(self, path: Path, content: bytes, on_bytes: Callable[[int], None]) -> None:
            path.write_bytes(content[:1000])
            on_bytes(1000)
            path.write_bytes(content)


class TestPublishesSecrets(OfShare):
    caught_by = ("test_a_public_address_is_https_without_secrets",)

    class store(ShareStorage):
        def public_url(self, url: str) -> str | None:
            return "https://share.example.org/file?token=hunter2"


class TestRefusesWithoutSayingSo(OfShare):
    caught_by = ("test_somebody_without_an_account_reads_it_or_is_refused",)

    class store(ShareStorage):
        def anonymous(self) -> Storage:
            return _Closed(Path("/nowhere"))


class _Closed(ShareStorage):
    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        raise TransferError("No.", hint="Ask.")


class TestIsForOneThread(OfShare):
    caught_by = ("test_several_files_are_uploaded_at_once", "test_one_store_fetches_several_files_at_once")

    class store(ShareStorage):
        def __init__(self, root: Path) -> None:
            super().__init__(root)
            self._together = threading.Barrier(4)
            self._address = ""

        def _remember(self, url: str) -> str:
            self._together.wait(60)
            self._address = url
            self._together.wait(60)
            return self._address

        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            if request.url[-1].isdigit():  # one after the other
                return super().fetch(request, sink)
            return super().fetch(attrs.evolve(request, url=self._remember(request.url)), sink)

        def put(self, request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
            return super().put(attrs.evolve(request, url=self._remember(request.url)), on_bytes)

"""The whole way: a real web server, the store, the site's fetcher and its cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from medperf_core.errors import OfflineError, TransferError, VerificationError
from medperf_core.plugin import BackendContext
from medperf_core.site.cache import Cache
from medperf_core.site.fetch import Fetcher, Origin
from medperf_storage.plugin import medperf_storages
from medperf_storage.settings import HttpSettings
from tests.engines import require

if TYPE_CHECKING:
    from conftest import Handler, Server

CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@attrs.define
class Published:
    """A file on nginx."""

    http: str
    https: str
    authority: Path


@pytest.fixture
def published() -> Iterator[Published]:
    engine = require("nginx")
    file = Path(engine["MEDPERF_TEST_NGINX_ROOT"], f"store-{os.getpid()}.bin")
    file.write_bytes(CONTENT)
    yield Published(
        f"{engine['MEDPERF_TEST_NGINX_HTTP']}/{file.name}",
        f"{engine['MEDPERF_TEST_NGINX_HTTPS']}/{file.name}",
        Path(engine["MEDPERF_TEST_NGINX_CA"]),
    )
    file.unlink()


def fetcher(folder: Path, max_bytes: int = 1 << 30, **context: object) -> Fetcher:
    plugin = next(each for each in medperf_storages() if each.name == "http")
    made = BackendContext(folder, folder, **context)
    return Fetcher(Cache(folder / "cache"), lambda scheme: plugin.make(HttpSettings(attempts=1), made), made, max_bytes)


def test_from_nginx(published: Published, tmp_path: Path) -> None:
    fetched = fetcher(tmp_path).fetch(f"direct:{published.http}", origin=Origin.TYPED)
    assert (fetched.sha256, fetched.size) == (SHA256, len(CONTENT))
    assert fetched.path.read_bytes() == CONTENT
    again = fetcher(tmp_path, offline=True).fetch(published.http, origin=Origin.TYPED, sha256=SHA256)
    assert (again.path, again.reused) == (fetched.path, True)


def test_from_nginx_encrypted(published: Published, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="certificate of the server is not accepted"):
        fetcher(tmp_path).fetch(published.https, origin=Origin.TYPED, sha256=SHA256)
    trusting = fetcher(tmp_path, ca_bundle=published.authority)
    fetched = trusting.fetch(published.https, origin=Origin.TYPED, sha256=SHA256)
    assert fetched.path.read_bytes() == CONTENT


def test_addresses_of_this_machine_by_origin(published: Published, tmp_path: Path) -> None:
    for origin in (Origin.REMOTE, Origin.MANIFEST):
        with pytest.raises(TransferError, match="leads to this machine"):
            fetcher(tmp_path).fetch(published.http, origin=origin, sha256=SHA256)
    assert fetcher(tmp_path).fetch(published.http, origin=Origin.EMBEDDED, sha256=SHA256).size == len(CONTENT)


def test_offline(published: Published, tmp_path: Path) -> None:
    with pytest.raises(OfflineError):
        fetcher(tmp_path, offline=True).fetch(published.http, origin=Origin.TYPED)


def nothing_kept(folder: Path) -> bool:
    cache = Cache(folder / "cache")
    return cache.entries() == [] and list((cache.root / "temp").iterdir()) == []


def test_login_page_instead_of_the_file(server: Server, tmp_path: Path) -> None:
    page = b"<!doctype html><title>Log in</title>"
    url = server.serve("/a", lambda handler: handler.answer(200, page, Content_Type="text/html"))
    with pytest.raises(VerificationError, match="a web page") as caught:
        fetcher(tmp_path).fetch(url, origin=Origin.TYPED, sha256=SHA256)
    assert SHA256 in str(caught.value)
    assert nothing_kept(tmp_path)


def test_answer_without_end(server: Server, tmp_path: Path) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not handler.server.stopped.is_set():
            handler.wfile.write(bytes(65536))

    with pytest.raises(TransferError, match="is larger; at most 1000000 are allowed"):
        fetcher(tmp_path, max_bytes=1_000_000).fetch(server.serve("/a", endless), origin=Origin.TYPED)
    assert nothing_kept(tmp_path)


def test_cut_answer_keeps_nothing(server: Server, tmp_path: Path) -> None:
    url = server.serve("/a", lambda handler: handler.answer(200, CONTENT[:1000], Content_Length="2000"))
    with pytest.raises(TransferError, match="cut short"):
        fetcher(tmp_path).fetch(url, origin=Origin.TYPED)
    assert nothing_kept(tmp_path)


def test_an_etag_that_lies_is_not_believed(server: Server, tmp_path: Path) -> None:
    """Other bytes under the ETag of those that were fetched before, and "not modified" for what was never fetched."""
    other = bytes(reversed(CONTENT))
    for name, second in {
        "/same": lambda handler: handler.answer(200, other, ETag='"one"'),
        "/unchanged": lambda handler: handler.answer(304, ETag='"one"'),
    }.items():
        url = server.serve(name, lambda handler: handler.answer(200, CONTENT, ETag='"one"'), second)
        folder = tmp_path / name.strip("/")
        assert fetcher(folder).fetch(url, origin=Origin.TYPED, sha256=SHA256).sha256 == SHA256
        wanted = hashlib.sha256(other + b"x").hexdigest()
        with pytest.raises((VerificationError, TransferError)):
            fetcher(folder).fetch(url, origin=Origin.TYPED, sha256=wanted)
        assert [entry.sha256 for entry in Cache(folder / "cache").entries()] == [SHA256]
        assert not [key for _, sent in server.seen for key in sent if key.lower() in ("if-none-match", "if-range")]

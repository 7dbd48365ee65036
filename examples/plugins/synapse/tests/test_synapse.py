"""The ``synapse`` store, against a small server that answers as Synapse does."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest
import requests

from medperf_core.errors import ConfigurationError, TransferError
from medperf_core.plugin import BackendContext, FetchRequest, StoragePlugin
from medperf_core.plugin.testing.fetching import CheckedSink
from medperf_core.plugin.testing.relay import Relay
from medperf_core.plugin.testing.storages import Place, StorageContract
from medperf_synapse import SynapseSettings, medperf_storages

TOKEN, SIGNATURE = "made-up-token", "X-Amz-Signature=5e1f"


class Synapse(ThreadingHTTPServer):
    """Two calls of Synapse, and the cloud behind it.

    Attributes:
        files: contents by name; the number of a file is its place.
        located: what is answered instead of a file's address.
        seen: path and token of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, bytes] = {}
        self.located = ""
        self.seen: list[tuple[str, str | None]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections are cut by the tests."""


class _Answers(BaseHTTPRequestHandler):
    server: Synapse

    def do_GET(self) -> None:
        token = self.headers.get("Authorization")
        self.server.seen.append((self.path, token))
        status, body = self._answer(token)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, token: str | None) -> tuple[int, bytes]:
        contents = list(self.server.files.values())
        asked = re.fullmatch(r"/repo/v1/entity/syn(\d+)(?:/version/1)?/file\?redirect=false", self.path)
        stored = re.fullmatch(rf"/bucket/(\d+)\?{SIGNATURE}", self.path)
        number = int((asked or stored or ["", "9999"])[1])
        if asked and token != f"Bearer {TOKEN}":
            return 403, b'{"reason": "You lack READ access."}'
        if number >= len(contents):
            return 404, b'{"reason": "not found"}'
        if asked:
            return 200, (self.server.located or f"http://{self.headers['Host']}/bucket/{number}?{SIGNATURE}").encode()
        return (400, b"<Error/>") if token else (200, contents[number])  # clouds refuse a second kind of login

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read ``seen``."""


@pytest.fixture
def synapse() -> Iterator[Synapse]:
    server = Synapse()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def plugin() -> StoragePlugin:
    """The store, with the token of somebody who may read."""
    (plugin,) = medperf_storages()
    return plugin


def context(folder: Path, token: str = TOKEN) -> BackendContext:
    stored = {"token": token} if token else None
    return BackendContext(folder, folder, credentials=lambda name: stored if name == "synapse" else None)


class TestContract(StorageContract):
    @pytest.fixture
    def plugin(self) -> StoragePlugin:
        (plugin,) = medperf_storages()

        def make(settings: SynapseSettings, site: BackendContext) -> Any:
            return plugin.make(settings, attrs.evolve(site, credentials=lambda name: {"token": TOKEN}))

        return attrs.evolve(plugin, make=make)

    @pytest.fixture
    def settings(self, synapse: Synapse, relay: Relay) -> SynapseSettings:
        return SynapseSettings(endpoint=f"http://127.0.0.1:{relay.front(synapse.server_port)}", timeout=10)

    @pytest.fixture
    def place(self, synapse: Synapse) -> Place:
        def put(content: bytes, name: str) -> str:
            synapse.files[name] = content
            return f"synapse:syn{list(synapse.files).index(name)}"

        return put


def fetch(plugin: StoragePlugin, synapse: Synapse, site: BackendContext, url: str = "synapse:syn0") -> bytes:
    sink, settings = CheckedSink(), SynapseSettings(endpoint=f"http://127.0.0.1:{synapse.server_port}")
    plugin.make(settings, site).fetch(FetchRequest(url, False, 1 << 20), sink)
    return sink.data


def test_the_token_goes_to_synapse_only(plugin: StoragePlugin, synapse: Synapse, tmp_path: Path) -> None:
    synapse.files["a"] = b"weights"
    assert fetch(plugin, synapse, context(tmp_path), "synapse:syn0.1") == b"weights"
    assert [token for _, token in synapse.seen] == [f"Bearer {TOKEN}", None]


@pytest.mark.parametrize("token", ["", "wrong-token"])
def test_who_may_not_read_is_told_how_to(token: str, plugin: StoragePlugin, synapse: Synapse, tmp_path: Path) -> None:
    synapse.files["a"] = b"weights"
    with pytest.raises(TransferError, match="403") as caught:
        fetch(plugin, synapse, context(tmp_path, token))
    assert "medperf auth store synapse" in str(caught.value.hint)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(
    "located", ["file:///etc/passwd", "http://host.example/x", "https://127.0.0.1/x", "https://localhost/x", "https://"]
)
def test_where_no_file_is_fetched_from(located: str, plugin: StoragePlugin, synapse: Synapse, tmp_path: Path) -> None:
    synapse.files["a"], synapse.located = b"weights", f"{located}?{SIGNATURE}"
    with pytest.raises(TransferError) as caught:
        fetch(plugin, synapse, context(tmp_path))
    assert "5e1f" not in str(caught.value) and len(synapse.seen) == 1


def test_an_endless_address_is_not_cut(plugin: StoragePlugin, synapse: Synapse, tmp_path: Path) -> None:
    synapse.files["a"] = b"weights"
    synapse.located = f"http://127.0.0.1:{synapse.server_port}/bucket/0?{SIGNATURE}&{'x' * (1 << 14)}"
    with pytest.raises(TransferError, match="endless"):
        fetch(plugin, synapse, context(tmp_path))
    assert len(synapse.seen) == 1


def test_the_environment_does_not_go_before_the_profile(
    plugin: StoragePlugin, synapse: Synapse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in whom is trusted nor in the proxy; and this machine is asked through none."""
    synapse.files["a"] = b"weights"
    used: list[tuple[Any, Any]] = []
    real = requests.Session.send

    def send(session: requests.Session, request: Any, **words: Any) -> Any:
        used.append((words["verify"], dict(words["proxies"])))
        return real(session, request, **words)

    monkeypatch.setattr(requests.Session, "send", send)
    for name in ("other", "profile"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "other"))
    for scheme in ("http", "https", "all"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    site = attrs.evolve(context(tmp_path), ca_bundle=tmp_path / "profile")
    assert fetch(plugin, synapse, site) == b"weights"
    assert used == [(str(tmp_path / "profile"), {})] * 2
    assert fetch(plugin, synapse, context(tmp_path)) == b"weights"
    assert used[2:] == [(str(tmp_path / "other"), {})] * 2


def test_a_number_that_nobody_has(plugin: StoragePlugin, synapse: Synapse, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"synapse:syn7.*404"):
        fetch(plugin, synapse, context(tmp_path), "synapse:syn7")


def test_a_token_is_not_sent_in_the_open(plugin: StoragePlugin, tmp_path: Path) -> None:
    for endpoint in ("http://synapse.example", "http://192.168.1.5", "http://10.0.0.1:8080"):
        with pytest.raises(ConfigurationError, match="plain http"):
            plugin.make(SynapseSettings(endpoint=endpoint), context(tmp_path))

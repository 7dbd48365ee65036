"""Encrypted addresses through a proxy: a tunnel (CONNECT) to a server of another name, which is checked end to end."""

from __future__ import annotations

import base64
import logging
from pathlib import Path
from typing import Any

import pytest

from medperf_core.errors import TransferError

HOST = "files.hospital.example"
URL = f"https://{HOST}/a"
PASSWORD = "pr0xy-s3cret"


@pytest.fixture
def far(named_server: Any, proxy: Any) -> Any:
    """A server that only the proxy leads to."""
    server = named_server(HOST)
    server.serve("/a", lambda handler: handler.answer(200, b"content", ETag='"1"'))
    proxy.tunnel_to = server.server_port
    return server


def https(proxy: Any, login: str = "") -> dict[str, str]:
    return {"https": proxy.url.replace("//", f"//{login}")}


def test_a_proxy_of_the_profile(far: Any, proxy: Any, client: Any, named_tls: Any) -> None:
    client.fetch(URL, proxies=https(proxy), ca_bundle=named_tls.pem)
    assert client.sink.data == b"content"
    assert [where for where, _ in proxy.seen] == [f"{HOST}:443"]
    assert [path for path, _ in far.seen] == ["/a"]


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment(
    far: Any, proxy: Any, client: Any, named_tls: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, proxy.url)
    client.fetch(URL, ca_bundle=named_tls.pem)
    assert client.sink.data == b"content" and proxy.seen


def test_the_proxy_sees_neither_the_path_nor_the_login(far: Any, proxy: Any, client: Any, named_tls: Any) -> None:
    address = URL.replace("//", "//me:s3cret@")
    client.fetch(address, proxies=https(proxy), ca_bundle=named_tls.pem)
    assert far.seen[0][1]["Authorization"].startswith("Basic ")
    ((where, headers),) = proxy.seen
    assert where == f"{HOST}:443" and "Authorization" not in headers


def test_a_proxy_with_a_login(
    far: Any, proxy: Any, client: Any, named_tls: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is sent to the proxy alone, and shown to nobody."""
    caplog.set_level(logging.DEBUG)
    ways: dict[str, Any] = {"proxies": https(proxy, f"me:{PASSWORD}@"), "ca_bundle": named_tls.pem}
    client.fetch(URL, **ways)
    word = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert proxy.seen[0][1]["Proxy-Authorization"] == f"Basic {word}"
    assert "Proxy-Authorization" not in far.seen[0][1]
    proxy.tunnel_to = None
    told = ""
    for end in (lambda: None, proxy.close):
        end()
        with pytest.raises(TransferError, match="proxy") as caught:
            client.fetch(URL, **ways)
        told += str(caught.value)
    told += f"{client.events}{caplog.text}"
    assert PASSWORD not in told and word not in told


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_authority_of_the_environment(
    far: Any, proxy: Any, client: Any, named_tls: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, str(named_tls.pem))
    client.fetch(URL, proxies=https(proxy))
    assert client.sink.data == b"content"


def test_a_wrong_authority(far: Any, proxy: Any, client: Any, authority: Path, tmp_path: Path) -> None:
    for file in (authority / "ca.pem", None):
        with pytest.raises(TransferError, match=r"certificate of the server is not accepted.*ca_bundle"):
            client.fetch(URL, proxies=https(proxy), ca_bundle=file)
    (tmp_path / "no.pem").write_text("nothing of the kind")
    with pytest.raises(TransferError, match="no certificate in the file of certificate authorities"):
        client.fetch(URL, proxies=https(proxy), ca_bundle=tmp_path / "no.pem")
    assert not far.seen


def test_no_proxy(far: Any, proxy: Any, client: Any, named_tls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", ".hospital.example")
    with pytest.raises(TransferError, match="name of the server cannot be resolved"):
        client.fetch(URL, proxies=https(proxy), ca_bundle=named_tls.pem)
    assert not proxy.seen

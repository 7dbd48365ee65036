"""Which servers are reached, by what way, and what they get to know."""

from __future__ import annotations

import base64
import ipaddress
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medperf_core.errors import ConfigurationError, TransferError
from medperf_storage.addresses import AddressRefused, AddressRules
from medperf_storage.plugin import medperf_storages

if TYPE_CHECKING:
    from conftest import Answer, Client, Handler, Server

PLAIN = frozenset({"plain-http"})


def whole(handler: Handler) -> None:
    handler.answer(200, b"content")


def to(location: str, status: int = 302) -> Answer:
    return lambda handler: handler.answer(status, Location=location)


def basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.8.8.8",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "0.0.0.0",
        "localhost",
        "LocalHost",
        "localhost.",
        "a.localhost",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_this_machine_is_reached_only_if_allowed(scheme: str, host: str, server: Server, client: Client) -> None:
    server.serve("/a", whole)
    with pytest.raises(TransferError, match="leads to this machine"):
        client.fetch(f"{scheme}://{host}:{server.server_port}/a", allow_local=False, waivers=PLAIN)
    assert server.seen == []


def test_digits_of_other_scripts_are_no_way_around(server: Server, client: Client) -> None:
    server.serve("/a", whole)
    with pytest.raises(TransferError):
        client.fetch(f"http://１２７.0.0.1:{server.server_port}/a", allow_local=False, waivers=PLAIN)
    assert server.seen == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "localhost", "LOCALHOST", "0.0.0.0"])
def test_this_machine_needs_no_encryption(host: str, server: Server, client: Client, names: dict[str, str]) -> None:
    names["LOCALHOST"] = "127.0.0.1"
    server.serve("/a", whole)
    client.fetch(f"http://{host}:{server.server_port}/a")
    assert client.sink.data == b"content"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_name_that_leads_here_is_noticed_when_connected(
    scheme: str, server: Server, tls_server: Server, client: Client, names: dict[str, str]
) -> None:
    names["files.example"] = "127.0.0.1"
    for each in (server, tls_server):
        each.serve("/a", whole)
    port = {"http": server, "https": tls_server}[scheme].server_port
    with pytest.raises(TransferError, match="leads to this machine"):
        client.fetch(f"{scheme}://files.example:{port}/a", allow_local=False, waivers=PLAIN)
    assert server.seen == tls_server.seen == []


def test_name_that_leads_here_may_if_allowed(server: Server, client: Client, names: dict[str, str]) -> None:
    names["files.example"] = "127.0.0.1"
    server.serve("/a", whole)
    client.fetch(f"http://files.example:{server.server_port}/a", waivers=PLAIN)
    assert client.sink.data == b"content"


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[::ffff:169.254.169.254]",
        "2852039166",
        "[64:ff9b::a9fe:a9fe]",
        "[fd00:ec2::254]",
    ],
)
def test_link_local_is_never_reached(host: str, client: Client) -> None:
    with pytest.raises(TransferError, match="link-local"):
        client.fetch(f"http://{host}/latest/meta-data", waivers=PLAIN)


@pytest.mark.parametrize("host", ["files.example", "192.0.2.1", "[2001:db8::1]", "notlocalhost", "localhost.example"])
def test_plain_http_to_others_is_waived_by_name(host: str, client: Client) -> None:
    with pytest.raises(TransferError, match="plain http to another machine") as caught:
        client.fetch(f"http://{host}/a")
    assert "--allow plain-http" in str(caught.value)


def test_localhost_that_is_another_machine_is_noticed() -> None:
    rules = AddressRules(allow_local=True, allow_plain=False, encrypted=False)
    rules.check_host("localhost")
    with pytest.raises(AddressRefused, match="plain http"):
        rules.check_ip(ipaddress.ip_address("192.0.2.1"))
    AddressRules(allow_local=False, allow_plain=False, encrypted=True).check_ip(ipaddress.ip_address("192.0.2.1"))


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("file:///etc/passwd", "scheme file"),
        ("ftp://files.example/a", "scheme ftp"),
        ("javascript:alert(1)", "scheme javascript"),
        ("http://127.0.0.1:1/a", "redirects to this machine"),
        ("http://localhost/a", "redirects to this machine"),
        ("/b", "redirects to this machine"),
        ("http://[::1", "not followed"),
        ("http://169.254.169.254/a", "link-local"),
        ("http://files.example/a", "plain http"),
        ("", "not followed"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_that_is_not_followed(location: str, words: str, status: int, server: Server, client: Client) -> None:
    server.serve("/b", whole)
    with pytest.raises(TransferError, match=words):
        client.fetch(server.serve("/a", to(location, status)))
    assert len(server.seen) == 1
    assert client.sink.data == b""


def test_redirect_to_a_name_that_leads_here(server: Server, client: Client, names: dict[str, str]) -> None:
    names["files.example"] = "127.0.0.1"
    server.serve("/b", whole)
    with pytest.raises(TransferError, match="leads to this machine"):
        client.fetch(server.serve("/a", to(f"http://files.example:{server.server_port}/b")), waivers=PLAIN)
    assert [path for path, _ in server.seen] == ["/a"]


def test_redirect_away_from_encryption(tls_server: Server, client: Client, authority: Path) -> None:
    url = tls_server.serve("/a", to("http://files.example/a?token=s3cret"))
    with pytest.raises(TransferError, match=r"redirects from https to plain http \(http://files\.example/a\)"):
        client.fetch(url, waivers=PLAIN, ca_bundle=authority / "ca.pem")


def through(proxy: Server) -> dict[str, str]:
    return {"http": proxy.url, "https": proxy.url}


def test_redirects_are_followed_and_counted(proxy: Server, client: Client) -> None:
    for number in range(10):
        proxy.answers[f"http://files.example/{number}"] = [to(f"/{number + 1}")]
    proxy.answers["http://files.example/10"] = [whole]
    client.fetch("http://files.example/5", proxies=through(proxy), waivers=PLAIN)
    assert client.sink.data == b"content"
    with pytest.raises(TransferError, match=r"http://files\.example/4 redirects more than 5 times"):
        client.fetch("http://files.example/4", proxies=through(proxy), waivers=PLAIN)
    proxy.answers["http://files.example/loop"] = [to("http://files.example/loop")]
    with pytest.raises(TransferError, match="redirects more than 5 times"):
        client.fetch("http://files.example/loop", proxies=through(proxy), waivers=PLAIN)


def test_login_stays_with_its_server(proxy: Server, client: Client) -> None:
    proxy.answers = {
        "http://files.example/a": [to("/same")],
        "http://files.example/same": [to("http://files.example:8080/port")],
        "http://files.example:8080/port": [to("http://evil:login@other.example/b")],
        "http://other.example/b": [to("http://files.example/back")],
        "http://files.example/back": [whole],
    }
    client.fetch("http://m%40e:s3cret@files.example/a", proxies=through(proxy), waivers=PLAIN)
    assert [(path, headers.get("Authorization")) for path, headers in proxy.seen] == [
        ("http://files.example/a", basic("m@e:s3cret")),
        ("http://files.example/same", basic("m@e:s3cret")),
        ("http://files.example:8080/port", None),
        ("http://other.example/b", None),
        ("http://files.example/back", basic("m@e:s3cret")),
    ]


def test_login_file_of_the_user_is_not_read(
    server: Server, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    client.fetch(server.serve("/a", whole))
    assert "Authorization" not in server.seen[0][1]


def test_proxies_of_the_environment(proxy: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.answers["http://files.example/a"] = [whole]
    monkeypatch.setenv("http_proxy", proxy.url)
    client.fetch("http://files.example/a", waivers=PLAIN)
    assert client.sink.data == b"content"


def test_this_machine_is_never_asked_through_a_proxy(
    server: Server, proxy: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", proxy.url)
    server.serve("/a", whole)
    for host in ("127.0.0.1", "localhost", "127.1"):
        client.fetch(f"http://{host}:{server.server_port}/a", proxies=through(proxy))
    assert proxy.seen == []


@pytest.mark.parametrize("configured", [True, False])
def test_no_proxy_is_respected(
    configured: bool,
    server: Server,
    proxy: Server,
    client: Client,
    names: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names["files.intern.example"] = "127.0.0.1"
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "intern.example")
    server.serve("/a", whole)
    client.fetch(
        f"http://files.intern.example:{server.server_port}/a",
        waivers=PLAIN,
        proxies=through(proxy) if configured else {},
    )
    assert proxy.seen == []
    assert client.sink.data == b"content"


@pytest.mark.parametrize(("address", "words"), [("127.0.0.1", "leads to this machine"), ("169.254.1.1", "link-local")])
def test_proxy_is_no_way_around(address: str, words: str, proxy: Server, client: Client, names: dict[str, str]) -> None:
    names["files.example"] = address
    proxy.answers["http://files.example/a"] = [whole]
    with pytest.raises(TransferError, match=words):
        client.fetch("http://files.example/a", allow_local=False, proxies=through(proxy), waivers=PLAIN)
    assert proxy.seen == []


def test_login_for_the_proxy_is_sent_to_it_alone(proxy: Server, client: Client) -> None:
    proxy.answers["http://files.example/a"] = [whole]
    client.fetch("http://files.example/a", waivers=PLAIN, proxies={"http": proxy.url.replace("//", "//me:s3cret@")})
    assert proxy.seen[0][1]["Proxy-Authorization"] == basic("me:s3cret")


def test_encrypted_connection_through_a_proxy_is_checked(
    proxy: Server, tls_server: Server, client: Client, authority: Path
) -> None:
    proxy.tunnel_to = tls_server.server_port
    tls_server.serve("/a", whole)
    with pytest.raises(TransferError, match="certificate of the server is not accepted: Hostname mismatch"):
        client.fetch("https://files.example/a", proxies=through(proxy), ca_bundle=authority / "ca.pem")
    assert proxy.seen[0][0] == "files.example:443"
    assert tls_server.seen == []
    proxy.tunnel_to = None
    with pytest.raises(TransferError, match="proxy"):
        client.fetch("https://files.example/a", proxies=through(proxy))


def test_private_authority(
    tls_server: Server, client: Client, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tls_server.serve("/a", whole)
    client.fetch(url, ca_bundle=authority / "ca.pem")
    assert client.sink.data == b"content"
    with pytest.raises(TransferError, match="certificate of the server is not accepted") as caught:
        client.fetch(url)
    assert "ca_bundle" in str(caught.value)
    assert len(tls_server.seen) == 1
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority / "ca.pem"))
    client.fetch(url)
    with pytest.raises(ConfigurationError, match=r"none\.pem does not exist"):
        client.fetch(url, ca_bundle=authority / "none.pem")


def test_encryption_with_a_server_that_has_none(server: Server, client: Client) -> None:
    with pytest.raises(TransferError, match=r"no encrypted connection \(TLS\) with the server"):
        client.fetch(server.serve("/a", whole).replace("http:", "https:"))
    assert client.waits.seconds == []


@pytest.mark.parametrize(
    "url",
    [
        "http://me:s3cret@files.example/a?token=s3cret#s3cret",
        "https://me:s3cret@no.example/a?token=s3cret",
        "https://me:s3cret@169.254.1.1/?s3cret",
        "http://me:s3cret@127.0.0.1:1/a?s3cret",
        "ftp://me:s3cret@host/?s3cret",
        "https://me:s3cret@127.0.0.1:{port}/?s3cret",
        "http://me:s3cret@127.0.0.1:{port}/500?s3cret",
        "http://me:s3cret@127.0.0.1:{port}/404?s3cret",
        "http://me:s3cret@127.0.0.1:{port}/to?s3cret",
        "http://me:s3cret@127.0.0.1:{port}/cut?s3cret",
    ],
)
def test_secrets_are_never_shown(url: str, server: Server, client: Client) -> None:
    server.serve("/500?s3cret", lambda handler: handler.answer(500))
    server.serve("/to?s3cret", to("http://me:s3cret@files.example/?s3cret"))
    server.serve("/cut?s3cret", lambda handler: handler.answer(200, b"x", Content_Length="9"))
    with pytest.raises(TransferError) as caught:
        client.fetch(url.format(port=server.server_port))
    assert "s3cret" not in "".join(traceback.format_exception(caught.value)).replace(url, "")
    assert "s3cret" not in f"{caught.value}{client.events}"


def test_plugin_is_light() -> None:
    plugin = next(each for each in medperf_storages() if each.name == "http")
    assert (plugin.name, plugin.schemes, plugin.api) == ("http", ("http", "https"), plugin.API)
    code = "import sys, medperf_storage.plugin as p; list(p.medperf_storages()); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert {"requests", "urllib3", "ssl", "http.client"}.isdisjoint(done.stdout.split())

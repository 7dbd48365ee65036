"""Which hosts are this machine, which proxy is taken, and who is trusted."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

from medperf_core.errors import ConfigurationError
from medperf_core.plugin import BackendContext
from medperf_core.plugin.network import authorities, is_local, proxy_for

PROXY, OTHER = "http://proxy:3128", "http://other:3128"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
FILES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "OWN_CA_BUNDLE")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *FILES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "127.0.0.1.", "127.1", "0x7f000001"),
        *("2130706433", "0.0.0.0", "::1", "[::1]", "::", "::ffff:127.0.0.1", "64:ff9b::7f00:1"),
    ],
)
def test_this_machine_however_it_is_written(host: str, context: BackendContext) -> None:
    assert is_local(host)
    everywhere = attrs.evolve(context, proxies={"http": PROXY})
    assert proxy_for(everywhere, f"http://{host if host[0] == '[' or ':' not in host else f'[{host}]'}/a") is None


@pytest.mark.parametrize("host", ["example.org", "localhost.org", "10.0.0.1", "128.0.0.1", "2001:db8::1", ""])
def test_other_machines(host: str) -> None:
    assert not is_local(host)


@pytest.mark.parametrize(
    ("profile", "environment", "found"),
    [
        ({}, {}, None),
        ({}, {"https_proxy": PROXY, "http_proxy": OTHER}, PROXY),
        ({}, {"http_proxy": OTHER}, None),
        ({}, {"all_proxy": PROXY}, PROXY),
        ({"https": PROXY}, {"https_proxy": OTHER}, PROXY),
        ({"http": PROXY}, {"https_proxy": OTHER}, None),
        ({"all": PROXY}, {}, PROXY),
        ({"https": OTHER, "https://files.example.org": PROXY}, {}, PROXY),
        ({"no_proxy": "elsewhere.org"}, {"https_proxy": PROXY}, PROXY),
        ({"no_proxy": "example.org"}, {"https_proxy": PROXY}, None),
        ({"https": PROXY}, {"no_proxy": "example.org"}, None),
        ({"https": PROXY, "no_proxy": "elsewhere.org"}, {"no_proxy": "example.org"}, PROXY),
    ],
)
def test_the_profile_counts_before_the_environment(
    profile: Mapping[str, str],
    environment: Mapping[str, str],
    found: str | None,
    context: BackendContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(attrs.evolve(context, proxies=profile), "https://files.example.org/a?b") == found


@pytest.mark.parametrize(
    ("listed", "url", "direct"),
    [
        ("*", "https://a.org", True),
        ("a.org", "https://a.org/x", True),
        ("a.org", "https://A.ORG./x", True),
        ("a.org", "https://b.a.org", True),
        (".a.org", "https://b.a.org", True),
        ("*.a.org", "https://b.a.org", True),
        ("x.org, a.org", "https://a.org", True),
        ("x.org a.org", "https://a.org", True),
        ("a.org", "https://evil-a.org", False),
        ("b.a.org", "https://a.org", False),
        ("a.org:8443", "https://a.org:8443", True),
        ("a.org:8443", "https://a.org", False),
        ("a.org:443", "https://a.org", True),
        ("10.0.0.0/8", "https://10.2.3.4", True),
        ("10.0.0.0/8", "https://11.2.3.4", False),
        ("10.0.0.0/8", "https://a.org", False),
        ("10.2.3.4", "https://10.2.3.4:9", True),
        ("10.2.3.4:9", "https://10.2.3.4:9", True),
        ("3.4", "https://10.2.3.4", False),
        ("2001:db8::/32", "https://[2001:db8::5]", True),
        ("2001:db8::5", "https://[2001:db8::6]", False),
        (",, ,", "https://a.org", False),
    ],
)
def test_what_is_asked_without_a_proxy(listed: str, url: str, direct: bool, context: BackendContext) -> None:
    given = attrs.evolve(context, proxies={"https": PROXY, "no_proxy": listed})
    assert (proxy_for(given, url) is None) == direct


def test_whom_to_trust(context: BackendContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: tmp_path / name for name in ("profile", "own", "usual", "system")}
    for file in files.values():
        file.touch()
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: SimpleNamespace(cafile=str(tmp_path / "none")))
    assert authorities(context) is None
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: SimpleNamespace(cafile=str(files["system"])))
    assert authorities(context) == files["system"]
    monkeypatch.setenv("CURL_CA_BUNDLE", str(files["usual"]))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none"))
    assert authorities(context) == files["usual"]
    monkeypatch.setenv("OWN_CA_BUNDLE", str(files["own"]))
    assert authorities(context) == files["usual"]
    assert authorities(context, "OWN_CA_BUNDLE") == files["own"]
    assert authorities(attrs.evolve(context, ca_bundle=files["profile"]), "OWN_CA_BUNDLE") == files["profile"]


def test_a_file_of_the_profile_that_is_not_there_is_an_error(context: BackendContext, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        authorities(attrs.evolve(context, ca_bundle=tmp_path / "none"))

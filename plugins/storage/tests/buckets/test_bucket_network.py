"""Buckets behind proxies and private certificate authorities: TLS through a tunnel to the real servers."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.errors import AuthenticationError, ConfigurationError, MedperfError, TransferError

PASSWORD = "pr0xy-s3cret"
STS = "sts.eu-west-1.amazonaws.com"


@attrs.frozen
class Away:
    """A bucket at a name that only the proxy knows.

    Attributes:
        front: speaks TLS, before the real server.
        proxy: notes what it is asked for, and leads all of it to ``front``.
    """

    person: Any
    bucket: Any
    front: Any
    proxy: Any
    host: str
    url: str

    def fetch(self, **context: Any) -> None:
        """Fetch an object and put another one."""
        person = attrs.evolve(self.person, context=attrs.evolve(self.person.context, **context))
        store = self.bucket.store(person.context, endpoint=f"https://{self.host}", attempts=1)
        person.fetch(store, self.url)
        assert person.sink.data == b"of a patient"
        person.put(store, self.bucket.url(f"new-{len(self.front.seen)}"), b"result")

    @property
    def tunnels(self) -> set[str]:
        return {where for where, _ in self.proxy.seen}

    def through(self, login: str = "") -> dict[str, str]:
        return {"https": self.proxy.url.replace("//", f"//{login}")}


@pytest.fixture
def away(bucket: Any, person: Any, proxy: Any, tls_front: Any) -> Away:
    host = f"{bucket.scheme}.hospital.example"
    front = tls_front(bucket.server, host)
    proxy.tunnel_to = front.server_port
    return Away(person, bucket, front, proxy, host, bucket.put("private.bin", b"of a patient"))


def test_a_proxy_of_the_profile(away: Away, named_tls: Any) -> None:
    away.fetch(proxies=away.through(), ca_bundle=named_tls.pem)
    assert away.tunnels == {f"{away.host}:443"} and away.front.seen


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment(away: Away, named_tls: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setenv(name, away.proxy.url)
        away.fetch(ca_bundle=named_tls.pem)
    assert away.tunnels == {f"{away.host}:443"}


def test_a_proxy_with_a_login(away: Away, named_tls: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is sent to the proxy alone, and shown to nobody."""
    caplog.set_level(logging.DEBUG)
    away.fetch(proxies=away.through(f"me:{PASSWORD}@"), ca_bundle=named_tls.pem)
    assert all(headers["Proxy-Authorization"].startswith("Basic ") for _, headers in away.proxy.seen)
    assert all("proxy-authorization" not in headers for _, _, headers in away.front.seen)
    away.proxy.tunnel_to = None
    with pytest.raises(MedperfError, match="proxy") as caught:
        away.fetch(proxies=away.through(f"me:{PASSWORD}@"), ca_bundle=named_tls.pem)
    away.proxy.close()
    with pytest.raises(MedperfError, match="proxy") as dead:
        away.fetch(proxies=away.through(f"me:{PASSWORD}@"), ca_bundle=named_tls.pem)
    assert PASSWORD not in f"{caught.value}{dead.value}{away.person.events}{caplog.text}"


@pytest.mark.parametrize("configured", [True, False])
def test_no_proxy(
    away: Away, named_tls: Any, names: dict[str, str], configured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "other.example,.hospital.example")
    monkeypatch.setenv("HTTPS_PROXY", away.proxy.url)
    with pytest.raises(TransferError, match="name of the server cannot be resolved"):
        away.fetch(ca_bundle=named_tls.pem, proxies=away.through() if configured else {})
    assert not away.proxy.seen


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_authority_of_the_environment(
    away: Away, named_tls: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("AWS") and away.bucket.scheme == "gs":
        return  # that one is of the tools of AWS
    monkeypatch.setenv(name, str(named_tls.pem))
    away.fetch(proxies=away.through())


def test_the_authority_of_the_profile_goes_first(
    away: Away, named_tls: Any, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(authority / "ca.pem"))
    away.fetch(proxies=away.through(), ca_bundle=named_tls.pem)


def test_a_wrong_authority(away: Away, authority: Path, tmp_path: Path) -> None:
    for file in (authority / "ca.pem", None):
        with pytest.raises(TransferError, match="certificate of the server is not accepted") as caught:
            away.fetch(proxies=away.through(), ca_bundle=file)
        assert "ca_bundle" in str(caught.value)
    (tmp_path / "no.pem").write_text("nothing of the kind")
    with pytest.raises(TransferError, match="no certificate in the file of certificate authorities"):
        away.fetch(proxies=away.through(), ca_bundle=tmp_path / "no.pem")
    with pytest.raises(ConfigurationError, match=r"none\.pem does not exist"):
        away.fetch(proxies=away.through(), ca_bundle=tmp_path / "none.pem")
    assert not away.front.seen


@pytest.fixture
def sts(
    s3_bucket: Any, person: Any, tls_front: Any, proxy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Any:
    """The token service of AWS at its own address, behind the proxy. What it gives opens nothing."""
    front = tls_front("http://127.0.0.1:9", STS)
    proxy.tunnel_to = front.server_port
    keys = {"AccessKeyId": "a" * 20, "SecretAccessKey": "b", "SessionToken": "c", "Expiration": "2099-01-01T00:00:00Z"}
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in keys.items())
    for name in ("Credentials", "AssumeRoleWithWebIdentityResult", "AssumeRoleWithWebIdentityResponse"):
        inner = f"<{name}>{inner}</{name}>"
    front.instead = lambda method, path: (200, {}, inner.encode())
    (tmp_path / "token").write_text("web-token")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_STS_REGIONAL_ENDPOINTS", "regional")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return front


def use(bucket: Any, person: Any, **context: Any) -> None:
    asked = attrs.evolve(person.context, credentials=lambda name: None, **context)
    with pytest.raises(TransferError, match=r"answered 40[03]"):
        person.fetch(bucket.store(asked), bucket.put("private.bin", b"x"))


def test_the_token_service_is_asked_through_the_proxy_of_the_profile(
    sts: Any, s3_bucket: Any, person: Any, proxy: Any, named_tls: Any, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority / "ca.pem"))
    use(s3_bucket, person, proxies={"https": proxy.url}, ca_bundle=named_tls.pem)
    assert [where for where, _ in proxy.seen] == [f"{STS}:443"] and len(sts.seen) == 1


def test_the_token_service_is_asked_as_the_environment_says(
    sts: Any, s3_bucket: Any, person: Any, proxy: Any, named_tls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(named_tls.pem))
    use(s3_bucket, person)
    assert len(sts.seen) == 1
    monkeypatch.setenv("NO_PROXY", "amazonaws.com")
    with pytest.raises(AuthenticationError, match=rf"{STS}.*cannot be resolved"):
        use(s3_bucket, person)


def test_a_token_service_with_an_unknown_authority(sts: Any, s3_bucket: Any, person: Any, proxy: Any) -> None:
    with pytest.raises(AuthenticationError, match=f"{STS} could not be asked.*certificate.*ca_bundle"):
        use(s3_bucket, person, proxies={"https": proxy.url})
    assert not sts.seen


@pytest.mark.parametrize("where", ["profile", "environment"])
def test_tokens_of_google_come_through_the_proxy(
    where: str,
    gs_bucket: Any,
    person: Any,
    tls_front: Any,
    proxy: Any,
    named_tls: Any,
    authority: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    front = tls_front("http://127.0.0.1:9", "sts.googleapis.com")
    proxy.tunnel_to = front.server_port
    reply = {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}
    issued = {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}
    front.instead = lambda method, path: (
        200,
        {"Content-Type": "application/json"},
        json.dumps(reply | issued).encode(),
    )
    (tmp_path / "subject").write_text("token-of-the-cluster")
    identity = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": str(tmp_path / "subject")},
    }
    (tmp_path / "adc.json").write_text(json.dumps(identity))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "adc.json"))
    if where == "profile":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority / "ca.pem"))
        ways: dict[str, Any] = {"proxies": {"https": proxy.url}, "ca_bundle": named_tls.pem}
    else:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(named_tls.pem))
        ways = {}
    url = gs_bucket.put("k", b"x")
    context = attrs.evolve(person.context, credentials=lambda name: None, **ways)
    person.fetch(gs_bucket.store(context), url)
    assert [each for each, _ in proxy.seen] == ["sts.googleapis.com:443"] and len(front.seen) == 1
    if ways:
        with pytest.raises(AuthenticationError, match=r"certificate.*ca_bundle"):
            person.fetch(gs_bucket.store(attrs.evolve(context, ca_bundle=None)), url)

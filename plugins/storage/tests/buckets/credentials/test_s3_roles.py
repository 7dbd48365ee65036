"""Roles that are assumed: Ceph gives their keys, and takes them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from medperf_core.errors import AuthenticationError, TransferError
from tests.engines.ceph import ROLE


@pytest.fixture
def sts(patient: Any, service: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ceph's own token service, and what it is asked."""
    front = service(lambda method, path: b"")
    front.behind = front.behind._replace(netloc=patient.server.removeprefix("http://"))
    front.instead = lambda method, path: None
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", front.url)
    return front


def owner(patient: Any) -> str:
    access, secret = patient.keys
    return f"[owner]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"


def test_a_role_of_another_profile(patient: Any, sts: Any, aws_files: Any) -> None:
    role = (
        f"[profile ward]\nregion = us-east-1\nrole_arn = {ROLE}\nsource_profile = owner\nrole_session_name = rounds\n"
    )
    aws_files(role, owner(patient))
    store = patient.store(profile="ward")
    patient.person.fetch(store, patient.url)
    assert bytes(patient.person.sink.data) == b"of a patient" and "assume-role" in patient.source(store)
    asked = parse_qs(sts.body.decode())
    assert (asked["Action"], asked["RoleArn"], asked["RoleSessionName"]) == (["AssumeRole"], [ROLE], ["rounds"])
    patient.person.put(store, patient.bucket.url("of-a-role.bin"), b"result")
    assert patient.bucket.ask("GET", "of-a-role.bin").content == b"result"
    large = b"x" * (9 << 20)
    patient.person.put(store, patient.bucket.url("large.bin"), large)
    assert hashlib.sha256(patient.bucket.ask("GET", "large.bin").content).digest() == hashlib.sha256(large).digest()
    assert len(sts.seen) == 1


def test_a_role_of_the_variables(patient: Any, sts: Any, aws_files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    aws_files(f"[profile ward]\nregion = us-east-1\nrole_arn = {ROLE}\ncredential_source = Environment\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", patient.keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", patient.keys[1])
    assert "assume-role" in patient.fetch(profile="ward")


def test_a_role_that_may_not_be_assumed(patient: Any, sts: Any, aws_files: Any) -> None:
    role = f"[profile ward]\nregion = us-east-1\nrole_arn = {ROLE}-of-others\nsource_profile = owner\n"
    aws_files(role, owner(patient))
    with pytest.raises(AuthenticationError, match=r"cannot be used \(\w+\)"):
        patient.fetch(profile="ward")


def test_a_web_identity(patient: Any, service: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def answer(method: str, path: str) -> bytes:
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in patient.temporary().items())
        for name in ("Credentials", "AssumeRoleWithWebIdentityResult", "AssumeRoleWithWebIdentityResponse"):
            inner = f"<{name}>{inner}</{name}>"
        return inner.encode()

    front = service(answer)
    (tmp_path / "token").write_text("web-token")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", front.url)
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert "web-identity" in patient.fetch()
    asked = parse_qs(front.body.decode())
    assert asked["WebIdentityToken"] == ["web-token"] and asked["RoleArn"] == [ROLE]
    assert "authorization" not in front.seen[0][2]
    (tmp_path / "token").unlink()
    with pytest.raises((AuthenticationError, TransferError)):
        patient.fetch()

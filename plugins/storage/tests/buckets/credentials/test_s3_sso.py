"""A login by `aws sso login`, whose token lies in the home folder and is exchanged for keys by a portal."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from medperf_core.errors import AuthenticationError

START = "https://hospital.example/start"
TOKEN = "sso-token-of-a-person"
ROLE = "sso_account_id = 123456789012\nsso_role_name = reader\nregion = us-east-1\n"
SESSION = (
    f"[profile ward]\nsso_session = hospital\n{ROLE}"
    f"[sso-session hospital]\nsso_start_url = {START}\nsso_region = us-east-1\nsso_registration_scopes = sso:account\n"
)
LEGACY = f"[profile ward]\nsso_start_url = {START}\nsso_region = us-east-1\n{ROLE}"


def log_in(home: Path, name: str, expires: str, **more: str) -> None:
    """Leave what `aws sso login` leaves."""
    folder = home / ".aws" / "sso" / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    found = {"startUrl": START, "region": "us-east-1", "accessToken": TOKEN, "expiresAt": expires, **more}
    (folder / f"{hashlib.sha1(name.encode()).hexdigest()}.json").write_text(json.dumps(found))


@pytest.fixture
def portal(patient: Any, service: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def answer(method: str, path: str) -> bytes:
        keys = patient.temporary()
        names = {"accessKeyId": "AccessKeyId", "secretAccessKey": "SecretAccessKey", "sessionToken": "SessionToken"}
        return json.dumps(
            {"roleCredentials": {**{name: keys[each] for name, each in names.items()}, "expiration": 1 << 42}}
        ).encode()

    made = service(answer)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", made.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SSO_OIDC", made.url)
    return made


@pytest.mark.parametrize(("config", "name"), [(SESSION, "hospital"), (LEGACY, START)])
def test_the_token_is_exchanged_for_keys(
    config: str, name: str, patient: Any, portal: Any, aws_files: Any, home: Path, in_minutes: Any
) -> None:
    aws_files(config)
    log_in(home, name, in_minutes(60))
    assert "sso" in patient.fetch(profile="ward")
    (method, path, headers), *more = portal.seen
    assert not more and method == "GET" and urlsplit(path).path == "/federation/credentials"
    assert parse_qs(urlsplit(path).query) == {"role_name": ["reader"], "account_id": ["123456789012"]}
    assert headers["x-amz-sso_bearer_token"] == TOKEN


@pytest.mark.parametrize(("config", "name"), [(SESSION, "hospital"), (LEGACY, START)])
def test_after_a_while_one_has_to_log_in_again(
    config: str, name: str, patient: Any, portal: Any, aws_files: Any, home: Path, in_minutes: Any
) -> None:
    aws_files(config)
    for expires in (None, in_minutes(-60)):
        if expires:
            log_in(home, name, expires)
        with pytest.raises(AuthenticationError, match="aws sso login --profile ward"):
            patient.fetch(profile="ward")
    assert not portal.seen


def test_a_portal_that_no_longer_takes_the_token(
    patient: Any, portal: Any, aws_files: Any, home: Path, in_minutes: Any
) -> None:
    aws_files(SESSION)
    log_in(home, "hospital", in_minutes(60))
    reply = json.dumps({"message": f"no {TOKEN}"}).encode()
    portal.instead = lambda method, path: (401, {"x-amzn-ErrorType": "UnauthorizedException"}, reply)
    with pytest.raises(AuthenticationError, match="aws sso login --profile ward") as caught:
        patient.fetch(profile="ward")
    assert TOKEN not in str(caught.value)


def test_an_old_token_is_refreshed(patient: Any, portal: Any, aws_files: Any, home: Path, in_minutes: Any) -> None:
    """As the tools of AWS do, if the login left what that takes."""
    aws_files(SESSION)
    client = {"clientId": "c", "clientSecret": "s", "registrationExpiresAt": in_minutes(6000), "refreshToken": "again"}
    log_in(home, "hospital", in_minutes(-60), **client)
    keys = portal.instead

    def answer(method: str, path: str) -> Any:
        if path == "/token":
            return 200, {}, json.dumps({"accessToken": "newer", "expiresIn": 3600, "refreshToken": "again"}).encode()
        return keys(method, path)

    portal.instead = answer
    patient.fetch(profile="ward")
    assert json.loads(portal.bodies[0])["refreshToken"] == "again"
    assert portal.seen[-1][2]["x-amz-sso_bearer_token"] == "newer"

"""Application default credentials of Google: each kind of file, with services of this machine in Google's place."""

from __future__ import annotations

import json
import stat
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from medperf_core.errors import AuthenticationError, ConfigurationError, TransferError
from medperf_storage.credentials_gs import OPT_IN, SCOPE

CONTENT = b"of a patient"
IDENTITY = {
    "type": "external_account",
    "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
}


LOGIN = {
    "type": "authorized_user",
    "client_id": "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com",
    "client_secret": "secret-of-gcloud",
    "refresh_token": "refresh-token-of-a-person",
}
"""What `gcloud auth application-default login` leaves."""


@pytest.fixture
def fetched(gs_bucket: Any, front: Any, visitor: Any, tokens: Any) -> Any:
    """Fetches an object that only the newest token opens; the request says whose it is."""
    url = gs_bucket.put("private.bin", CONTENT)

    def fetch(**settings: Any) -> Any:
        store = gs_bucket.store(visitor.context, endpoint=front.url, **settings)
        visitor.fetch(store, url)
        assert visitor.sink.data == CONTENT
        assert front.seen[-1][2]["authorization"] == f"Bearer {tokens.given[-1]}"
        return store

    return fetch


def test_a_service_account(fetched: Any, tokens: Any, adc: Any) -> None:
    """What is sent is signed with the account's key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    tokens.replies["/token"] = tokens.token
    adc(
        {
            "type": "service_account",
            "client_email": "x@test.iam.gserviceaccount.com",
            "private_key_id": "1",
            "private_key": key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode(),
            "token_uri": f"{tokens.front.url}/token",
        }
    )
    fetched()
    ((_, _, body),) = tokens.asked("/token")
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    jwt = pytest.importorskip("google.auth.jwt")
    claims = jwt.decode(
        parse_qs(body.decode())["assertion"][0], certs=public, audience="https://oauth2.googleapis.com/token"
    )
    assert (claims["iss"], claims["scope"]) == ("x@test.iam.gserviceaccount.com", SCOPE)


@pytest.mark.parametrize("gcloud", [True, False])
def test_the_login_of_a_person(gcloud: bool, fetched: Any, tokens: Any, google: Any, adc: Any) -> None:
    tokens.replies["/token"] = tokens.token
    adc(LOGIN, gcloud=gcloud)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fetched()
    ((_, _, body),) = tokens.asked("/token")
    asked = parse_qs(body.decode())
    assert asked["grant_type"] == ["refresh_token"] and asked["refresh_token"] == ["refresh-token-of-a-person"]
    assert [where for where, _ in google.seen] == ["oauth2.googleapis.com:443"]


def test_a_login_that_ended(fetched: Any, tokens: Any, google: Any, adc: Any) -> None:
    reply = b'{"error": "invalid_grant", "error_description": "refresh-token-of-a-person"}'
    tokens.replies["/token"] = lambda: (400, {"Content-Type": "application/json"}, reply)
    adc(LOGIN, gcloud=True)
    with pytest.raises(AuthenticationError, match="gcloud auth application-default login") as caught:
        fetched()
    assert "(invalid_grant)" in str(caught.value) and "refresh-token" not in str(caught.value)


def exchanges(tokens: Any) -> None:
    issued = {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}
    tokens.replies["/v1/token"] = lambda: {**tokens.token(), **issued}


def test_a_workload_identity_from_a_file(fetched: Any, tokens: Any, adc: Any, tmp_path: Path) -> None:
    (tmp_path / "subject").write_text("token-of-the-cluster")
    exchanges(tokens)
    source = {"file": str(tmp_path / "subject")}
    adc({**IDENTITY, "token_url": f"{tokens.front.url}/v1/token", "credential_source": source})
    fetched()
    ((_, _, body),) = tokens.asked("/v1/token")
    asked = parse_qs(body.decode())
    assert asked["subject_token"] == ["token-of-the-cluster"] and asked["audience"] == [IDENTITY["audience"]]


def test_a_workload_identity_from_an_address(fetched: Any, tokens: Any, adc: Any) -> None:
    exchanges(tokens)
    tokens.replies["/subject"] = lambda: {"id": "token-of-the-cluster"}
    source = {
        "url": f"{tokens.front.url}/subject",
        "headers": {"Metadata": "yes"},
        "format": {"type": "json", "subject_token_field_name": "id"},
    }
    adc({**IDENTITY, "token_url": f"{tokens.front.url}/v1/token", "credential_source": source})
    fetched()
    assert tokens.asked("/subject")[0][1]["metadata"] == "yes"
    assert b"token-of-the-cluster" in tokens.asked("/v1/token")[0][2]


def test_a_program_is_asked_only_if_google_s_own_variable_allows_it(
    fetched: Any, tokens: Any, adc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanges(tokens)
    answer = {
        "version": 1,
        "success": True,
        "token_type": "urn:ietf:params:oauth:token-type:id_token",
        "id_token": "token-of-a-program",
        "expiration_time": 1 << 33,
    }
    program = tmp_path / "give-token"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\necho '{json.dumps(answer)}'\n")
    program.chmod(stat.S_IRWXU)
    source = {"executable": {"command": str(program), "timeout_millis": 5000}}
    kind = {"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}
    adc({**IDENTITY, **kind, "token_url": f"{tokens.front.url}/v1/token", "credential_source": source})
    with pytest.raises(ConfigurationError, match=OPT_IN):
        fetched()
    assert not (tmp_path / "asked").exists()
    monkeypatch.setenv(OPT_IN, "1")
    fetched()
    assert b"token-of-a-program" in tokens.asked("/v1/token")[0][2]


def test_an_impersonated_service_account(fetched: Any, tokens: Any, google: Any, adc: Any) -> None:
    used: list[str] = []

    def impersonate() -> dict[str, str]:
        used.append(tokens.given[-1])
        return {"accessToken": tokens.token()["access_token"], "expireTime": "2099-01-01T00:00:00Z"}

    tokens.replies = {":generateAccessToken": impersonate, "/token": tokens.token}
    account = "projects/-/serviceAccounts/y@test.iam.gserviceaccount.com"
    address = f"https://iamcredentials.googleapis.com/v1/{account}:generateAccessToken"
    kind = "impersonated_service_account"
    adc({"type": kind, "service_account_impersonation_url": address, "source_credentials": LOGIN}, gcloud=True)
    fetched()
    ((path, headers, body),) = tokens.asked(":generateAccessToken")
    assert account in path and headers["authorization"] == f"Bearer {used[0]}"
    assert json.loads(body)["scope"] == [SCOPE]
    assert [where for where, _ in google.seen] == ["oauth2.googleapis.com:443", "iamcredentials.googleapis.com:443"]


@pytest.mark.parametrize("text", ["{", "[]", '{"type": "s3cret"}', '{"type": "authorized_user", "x": "s3cret"}'])
@pytest.mark.parametrize("gcloud", [True, False])
def test_a_file_that_is_not_one_of_google(text: str, gcloud: bool, fetched: Any, adc: Any) -> None:
    """It is never passed over."""
    adc(text, gcloud=gcloud)
    name = "application_default_credentials.json" if gcloud else "GOOGLE_APPLICATION_CREDENTIALS"
    with pytest.raises(AuthenticationError, match=name) as caught:
        fetched()
    assert "s3cret" not in str(caught.value)


def test_a_token_server_that_is_another_machine_is_not_asked_in_the_clear(
    fetched: Any, adc: Any, tmp_path: Path
) -> None:
    (tmp_path / "subject").write_text("token-of-the-cluster")
    source = {"file": str(tmp_path / "subject")}
    adc({**IDENTITY, "token_url": "http://tokens.example/v1/token", "credential_source": source})
    with pytest.raises(ConfigurationError, match=r"tokens\.example, would be asked over plain http"):
        fetched()


def test_a_token_server_that_redirects_is_not_followed(fetched: Any, tokens: Any, google: Any, adc: Any) -> None:
    """What is sent to it is a secret."""
    tokens.replies["/token"] = lambda: (307, {"Location": "https://oauth2.googleapis.com/elsewhere"}, b"")
    adc(LOGIN)
    with pytest.raises((AuthenticationError, TransferError)):
        fetched()
    assert not tokens.asked("/elsewhere")

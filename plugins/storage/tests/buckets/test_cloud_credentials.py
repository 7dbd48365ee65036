"""Where credentials come from: each source of the clouds' own tools, with services on this machine in their place."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from medperf_core.errors import AuthenticationError, ConfigurationError
from medperf_core.plugin import BackendContext
from medperf_storage import credentials_gs, credentials_s3
from medperf_storage.object_settings import GcsSettings, S3Settings

SECRET = "made-up-secret"
AUDIENCE = "https://oauth2.googleapis.com/token"
"""What the library signs for, wherever the token's server is."""
LATER = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def nobody(tmp_path: Path) -> BackendContext:
    """A site that stored no credentials."""
    return BackendContext(tmp_path, tmp_path)


def aws(context: BackendContext, **settings: Any) -> credentials_s3.Asker:
    return credentials_s3.find("bucket", S3Settings(**settings), context)


def without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a library was not installed."""
    for each in [each for each in sys.modules if each.split(".")[0] == name or each.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, each)
    monkeypatch.setitem(sys.modules, name, None)


def write_files(folder: Path, monkeypatch: pytest.MonkeyPatch, config: str = "", credentials: str = "") -> None:
    for name, variable, text in (
        ("config", "AWS_CONFIG_FILE", config),
        ("credentials", "AWS_SHARED_CREDENTIALS_FILE", credentials),
    ):
        (folder / name).write_text(text)
        monkeypatch.setenv(variable, str(folder / name))


def test_variables_of_aws(nobody: BackendContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    asker = aws(nobody)
    assert asker.key
    key = asker.key()
    assert (key.access_key, key.secret_key, key.token) == ("AKID", SECRET, "token")
    assert SECRET not in repr(asker)
    assert aws(nobody, anonymous=True).key is None


@pytest.mark.parametrize("library", [True, False])
def test_profiles_of_aws(
    library: bool, nobody: BackendContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_files(
        tmp_path,
        monkeypatch,
        "[default]\nregion = eu-west-1\n[profile ward]\naws_access_key_id = WARD\naws_secret_access_key = w\n",
        f"[default]\naws_access_key_id = DEFAULT\naws_secret_access_key = {SECRET}\n",
    )
    if not library:
        without("botocore", monkeypatch)
    found = {}
    for profile in (None, "ward"):
        asker = aws(nobody, profile=profile)
        assert asker.key
        found[profile] = asker.key().access_key
    assert found == {None: "DEFAULT", "ward": "WARD"}


def test_what_needs_the_library_of_aws_says_so(
    nobody: BackendContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without("botocore", monkeypatch)
    asker = aws(nobody)
    assert asker.key is None and "medperf-storage[s3]" in asker.source
    write_files(tmp_path, monkeypatch, "[profile sso]\nsso_session = x\n")
    with pytest.raises(ConfigurationError, match="sso_session") as caught:
        aws(nobody, profile="sso")
    assert "medperf-storage[s3]" in str(caught.value)
    with pytest.raises(ConfigurationError, match="no keys for the profile"):
        aws(nobody, profile="nobody")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/x")
    with pytest.raises(ConfigurationError, match="a web identity"):
        aws(nobody)


def test_a_program_gives_credentials_of_aws(
    nobody: BackendContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = {"Version": 1, "AccessKeyId": "PROGRAM", "SecretAccessKey": SECRET, "Expiration": LATER}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    write_files(tmp_path, monkeypatch, f"[default]\ncredential_process = cat {tmp_path}/keys.json\n")
    asker = aws(nobody)
    assert asker.key and asker.key().access_key == "PROGRAM"
    write_files(tmp_path, monkeypatch, "[default]\ncredential_process = false\n")
    with pytest.raises(AuthenticationError):
        aws(nobody)


def test_a_container_and_an_instance_give_credentials_of_aws(
    nobody: BackendContext, monkeypatch: pytest.MonkeyPatch, service: Any
) -> None:
    keys = {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": "ROLE",
        "SecretAccessKey": SECRET,
        "Token": "t",
        "Expiration": LATER,
        "LastUpdated": LATER,
    }

    def answer(method: str, path: str) -> bytes:
        if path == "/latest/api/token":
            return b"imds-token"
        if path.endswith("/security-credentials/"):
            return b"the-role"
        return json.dumps(keys).encode()

    front = service(answer)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", front.url)
    asker = aws(nobody)
    assert asker.key and asker.key().access_key == "ROLE" and "iam-role" in asker.source
    assert front.seen
    front.seen.clear()
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{front.url}/container")
    asker = aws(nobody)
    assert asker.key and asker.key().token == "t" and "container-role" in asker.source
    assert [path for _, path, _ in front.seen] == ["/container"]


def test_a_web_identity_is_a_role_of_aws(
    nobody: BackendContext, monkeypatch: pytest.MonkeyPatch, service: Any, tmp_path: Path
) -> None:
    reply = (
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>WEB</AccessKeyId>"
        f"<SecretAccessKey>{SECRET}</SecretAccessKey><SessionToken>t</SessionToken><Expiration>{LATER}</Expiration>"
        "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    ).encode()
    (tmp_path / "token").write_text("web-token")
    front = service(lambda method, path: reply)
    for name, value in {
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/reader",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_ENDPOINT_URL_STS": front.url,
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }.items():
        monkeypatch.setenv(name, value)
    asker = aws(nobody)
    assert asker.key and asker.key().access_key == "WEB"


def gs(context: BackendContext, **settings: Any) -> credentials_gs.Asker:
    return credentials_gs.find("bucket", GcsSettings(**settings), context)


def test_the_metadata_service_of_google(nobody: BackendContext, service: Any, google_metadata: Any) -> None:
    def answer(method: str, path: str) -> tuple[bytes, Mapping[str, str]]:
        body: Any = {"access_token": "from-metadata", "expires_in": 3600, "token_type": "Bearer"}
        if "/token" not in path:
            body = {"scopes": ["x"], "email": "default"}
        found = b"project" if path.endswith("project-id") else json.dumps(body).encode()
        return found, {"Metadata-Flavor": "Google", "Content-Type": "application/json"}

    front = service(answer)
    google_metadata(front.url)
    asker = gs(nobody)
    assert asker.token and asker.token() == "from-metadata"
    assert "application default" in asker.source
    front.seen.clear()
    assert gs(nobody, anonymous=True).token is None
    assert not front.seen


def test_a_service_account_signs_for_its_token(
    nobody: BackendContext, monkeypatch: pytest.MonkeyPatch, service: Any, tmp_path: Path
) -> None:
    """The token's server checks the signature, as Google's would."""
    from urllib.parse import parse_qs

    jwt = pytest.importorskip("google.auth.jwt")
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims: list[Mapping[str, Any]] = []

    def answer(method: str, path: str) -> bytes:
        assertion = parse_qs(front.body.decode())["assertion"][0]
        claims.append(jwt.decode(assertion, certs=public, audience=AUDIENCE))
        return json.dumps({"access_token": "signed-for", "expires_in": 3600}).encode()

    front = service(answer)
    account = {
        "type": "service_account",
        "client_email": "x@test.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        "token_uri": f"{front.url}/token",
        "project_id": "test",
    }
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    asker = gs(nobody)
    assert asker.token and asker.token() == "signed-for"
    assert claims[0]["iss"] == account["client_email"] and credentials_gs.SCOPE in claims[0]["scope"]
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    stored = {"gs://bucket": {"service_account": json.dumps(account)}}
    asker = credentials_gs.find("bucket", GcsSettings(), BackendContext(tmp_path, tmp_path, credentials=stored.get))
    assert asker.token and asker.token() == "signed-for" and "gs://bucket" in asker.source


def test_a_workload_identity_is_exchanged_for_a_token(
    nobody: BackendContext, monkeypatch: pytest.MonkeyPatch, service: Any, tmp_path: Path
) -> None:
    (tmp_path / "subject").write_text("token-of-the-cluster")
    reply = {
        "access_token": "federated",
        "expires_in": 3600,
        "token_type": "Bearer",
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }
    front = service(lambda method, path: (json.dumps(reply).encode(), {"Content-Type": "application/json"}))
    file = tmp_path / "identity.json"
    file.write_text(
        json.dumps(
            {
                "type": "external_account",
                "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": f"{front.url}/v1/token",
                "credential_source": {"file": str(tmp_path / "subject")},
            }
        )
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    asker = gs(nobody)
    assert asker.token and asker.token() == "federated"
    assert b"token-of-the-cluster" in front.body


def test_credentials_of_google_that_cannot_be_used(
    nobody: BackendContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "account.json"
    file.write_text(f'{{"type": "service_account", "private_key": "{SECRET}"}}')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    with pytest.raises(AuthenticationError) as caught:
        gs(nobody)
    assert SECRET not in str(caught.value)
    for stored in ({}, {"gs": {"other": "x"}}, {"gs": {"service_account": SECRET}}):
        context = BackendContext(tmp_path, tmp_path, credentials=stored.get)
        with pytest.raises((AuthenticationError, ConfigurationError)) as caught:
            gs(context)
        assert SECRET not in str(caught.value)


def test_what_needs_the_library_of_google_says_so(
    nobody: BackendContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without("google.auth", monkeypatch)
    asker = gs(nobody)
    assert asker.token is None and "medperf-storage[gs]" in asker.source
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "x.json"))
    with pytest.raises(ConfigurationError, match="library of Google"):
        gs(nobody)

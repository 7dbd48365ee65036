"""What services of credentials answer, and what is sent to them, is in no error, traceback, log or file of the site."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.errors import MedperfError
from medperf_storage.gcs import GcsStorage
from medperf_storage.object_settings import GcsSettings, S3Settings
from medperf_storage.s3 import S3Storage

SECRET = "s3cret"
"""In all that is secret here. The stand-ins for services put it in all parts of their answers."""
BODIES = {
    "xml": f"<R><Error><Code>{SECRET}</Code><Message>{SECRET}</Message></Error><AccessKeyId>{SECRET}</AccessKeyId></R>",
    "json": json.dumps(dict.fromkeys(("error", "error_description", "message", "__type", "access_token"), SECRET)),
    "text": f"no {SECRET} here",
}
DEAD = "http://127.0.0.1:9"


@attrs.frozen
class Site:
    """Whose credentials all come from services at one address."""

    home: Path
    set: Any
    aws_files: Any
    adc: Any

    def sso(self, url: str) -> str:
        from hashlib import sha1

        self.set("AWS_ENDPOINT_URL_SSO", url)
        self.set("AWS_PROFILE", "ward")
        start = "sso_start_url = https://hospital.example/start\nsso_region = us-east-1\n"
        self.aws_files(f"[profile ward]\n{start}sso_account_id = 123456789012\nsso_role_name = reader\n")
        cache = self.home / ".aws" / "sso" / "cache"
        cache.mkdir(parents=True)
        held = {"accessToken": f"token-{SECRET}", "expiresAt": "2099-01-01T00:00:00Z", "region": "us-east-1"}
        (cache / f"{sha1(b'https://hospital.example/start').hexdigest()}.json").write_text(json.dumps(held))
        return "s3"

    def role(self, url: str) -> str:
        self.set("AWS_ENDPOINT_URL_STS", url)
        self.set("AWS_PROFILE", "ward")
        self.aws_files(
            "[profile ward]\nregion = us-east-1\nrole_arn = arn:aws:iam::1:role/reader\nsource_profile = owner\n",
            f"[owner]\naws_access_key_id = {SECRET}\naws_secret_access_key = {SECRET}\naws_session_token = {SECRET}\n",
        )
        return "s3"

    def web_identity(self, url: str) -> str:
        self.set("AWS_ENDPOINT_URL_STS", url)
        self.set("AWS_ROLE_ARN", "arn:aws:iam::1:role/reader")
        self.set("AWS_DEFAULT_REGION", "us-east-1")
        (self.home / "token").write_text(f"web-{SECRET}")
        self.set("AWS_WEB_IDENTITY_TOKEN_FILE", str(self.home / "token"))
        return "s3"

    def container(self, url: str) -> str:
        self.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/v1")
        self.set("AWS_CONTAINER_AUTHORIZATION_TOKEN", f"pod-{SECRET}")
        return "s3"

    def service_account(self, url: str) -> str:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        mail = {"client_email": "x@test.iam.gserviceaccount.com", "private_key_id": SECRET}
        self.adc({"type": "service_account", **mail, "private_key": key.decode(), "token_uri": f"{url}/token"})
        return "gs"

    def workload_identity(self, url: str) -> str:
        (self.home / "token").write_text(f"web-{SECRET}")
        self.adc(
            {
                "type": "external_account",
                "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": f"{url}/v1/token",
                "credential_source": {"file": str(self.home / "token")},
            }
        )
        return "gs"


KINDS = ["sso", "role", "web_identity", "container", "service_account", "workload_identity"]


@pytest.fixture
def site(home: Path, monkeypatch: pytest.MonkeyPatch, aws_files: Any, adc: Any) -> Site:
    return Site(home, monkeypatch.setenv, aws_files, adc)


@pytest.fixture
def echo(service: Any) -> Any:
    """Answers with a status and a body, in which all that is secret stands."""
    front = service(lambda method, path: b"")
    front.status, front.kind = 400, "json"

    def instead(method: str, path: str) -> Any:
        body = BODIES[front.kind].encode() + b" " + front.body
        return front.status, {"X-Echo": SECRET, "Content-Type": f"application/{front.kind}"}, body

    front.instead = instead
    return front


def fetched(kind: str, visitor: Any) -> str:
    """What a person and an embedding program are told when it does not work."""
    store: Any = S3Storage(S3Settings(endpoint=DEAD, attempts=1), visitor.context)
    if kind == "gs":
        store = GcsStorage(GcsSettings(endpoint=DEAD, attempts=1), visitor.context)
    with pytest.raises(MedperfError) as caught:
        visitor.fetch(store, f"{kind}://bucket/key")
    shown = "".join(traceback.format_exception(caught.value))
    return f"{caught.value}\n{caught.value!r}\n{visitor.events}\n{shown}"


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_of_a_service_is_told(
    kind: str, site: Site, echo: Any, visitor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scheme = getattr(site, kind)(echo.url)
    for echo.status, echo.kind in ((400, "xml"), (400, "json"), (403, "text"), (200, "text")):
        told = fetched(scheme, visitor)
        assert SECRET not in told and "Error" in told
    assert echo.seen
    assert SECRET not in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_no_request_to_a_dead_service_is_told(
    kind: str, site: Site, visitor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told = fetched(getattr(site, kind)(DEAD), visitor)
    assert SECRET not in told + caplog.text


@pytest.mark.parametrize("kind", ["role", "service_account"])
def test_a_command_tells_nothing_either(kind: str, site: Site, echo: Any, tmp_path: Path) -> None:
    """With tracebacks, in its log at the level debug, and in all else that it writes."""
    scheme = getattr(site, kind)(echo.url)
    environment = {**os.environ, "MEDPERF_HOME": str(tmp_path / "site"), "HOME": str(site.home)}
    medperf = [sys.executable, "-m", "medperf_core.cli"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*medperf, *words], env=environment, capture_output=True, text=True, timeout=60)

    assert run("profile", "set", "loglevel=debug").returncode == 0
    done = run(
        "--debug", f"--{scheme}-endpoint", DEAD, "mlcube", "submit", "-n", "x", "-m", f"{scheme}://bucket/k.yaml"
    )
    assert done.returncode and "Traceback" in done.stderr and echo.seen
    assert f"{'AWS' if scheme == 's3' else 'Google'}" in done.stderr and "cannot be used" in done.stderr
    told = done.stdout + done.stderr
    logs = [path for path in (tmp_path / "site").rglob("*") if path.is_file()]
    told += "".join(path.read_bytes().decode(errors="replace") for path in logs)
    assert "DEBUG" in told and SECRET not in told and "PRIVATE KEY" not in told

"""Without the clouds' own libraries, whatever needs one says what to install, and nothing is asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.errors import ConfigurationError, TransferError

PROFILES = {
    "sso-session": "sso_session = hospital\nsso_account_id = 1\nsso_role_name = r\n",
    "sso": "sso_start_url = https://hospital.example/start\n",
    "role": "role_arn = arn:aws:iam::1:role/reader\nsource_profile = default\n",
    "role and keys": "role_arn = arn:aws:iam::1:role/reader\naws_access_key_id = a\naws_secret_access_key = b\n",
    "program": "credential_process = touch {marker}\n",
    "web identity": "web_identity_token_file = /token\n",
    "login": "login_session = arn:aws:iam::1:user/reader\n",
}
VARIABLES = {
    "web identity": {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/reader"},
    "pod": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/"},
    "task": {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2"},
}


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("botocore", "google.auth"):
        for each in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
            monkeypatch.delitem(sys.modules, each)
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "asked"


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("kind", PROFILES)
def test_profiles_of_aws(kind: str, patient_url: Any, aws_files: Any, marker: Path) -> None:
    aws_files(f"[profile ward]\n{PROFILES[kind].format(marker=marker)}")
    with pytest.raises(ConfigurationError, match=r"pip install 'medperf-storage\[s3\]'"):
        patient_url(profile="ward")
    assert not marker.exists()


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("kind", VARIABLES)
def test_variables_of_aws(kind: str, patient_url: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES[kind].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=r"pip install 'medperf-storage\[s3\]'"):
        patient_url()


@pytest.mark.usefixtures("missing")
def test_an_instance_of_aws(patient_url: Any) -> None:
    """Nobody knows whether this is one, so it is told with the refusal."""
    with pytest.raises(TransferError, match=r"403.*pip install 'medperf-storage\[s3\]'"):
        patient_url()


@pytest.fixture
def patient_url(s3_bucket: Any, visitor: Any) -> Any:
    """Fetches a private object."""
    url = s3_bucket.put("private.bin", b"x")
    return lambda **settings: visitor.fetch(s3_bucket.store(visitor.context, **settings), url)


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("gcloud", [True, False])
def test_files_of_google(gcloud: bool, gs_bucket: Any, visitor: Any, adc: Any) -> None:
    adc({"type": "service_account"}, gcloud=gcloud)
    with pytest.raises(ConfigurationError, match=r"pip install 'medperf-storage\[gs\]'"):
        visitor.fetch(gs_bucket.store(visitor.context), gs_bucket.url("k"))


@pytest.mark.usefixtures("missing")
def test_an_instance_of_google(gs_bucket: Any, visitor: Any, front: Any) -> None:
    front.instead = lambda method, path: (401, {}, b"")
    with pytest.raises(TransferError, match=r"401.*pip install 'medperf-storage\[gs\]'"):
        visitor.fetch(gs_bucket.store(visitor.context, endpoint=front.url), gs_bucket.url("k"))


def test_a_stored_service_account_of_google(gs_bucket: Any, visitor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.oauth2.service_account", None)
    stored = {"gs": {"service_account": json.dumps({"type": "service_account"})}}
    context = attrs.evolve(visitor.context, credentials=stored.get)
    with pytest.raises(ConfigurationError, match=r"pip install 'medperf-storage\[gs\]'"):
        visitor.fetch(gs_bucket.store(context), gs_bucket.url("k"))

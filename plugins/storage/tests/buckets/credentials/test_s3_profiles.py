"""Plain keys, in variables and in the files of AWS, open a private object of Ceph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medperf_core.errors import ConfigurationError, TransferError


def lines(patient: Any, name: str = "default") -> str:
    access, secret = patient.keys
    return f"[{name}]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"


def test_variables(patient: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", patient.keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", patient.keys[1])
    assert "variables" in patient.fetch()


def test_variables_of_a_session(patient: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = patient.temporary()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
    with pytest.raises(TransferError, match="403"):
        patient.fetch()
    monkeypatch.setenv("AWS_SESSION_TOKEN", keys["SessionToken"])
    patient.fetch()


def test_a_profile_in_the_files_of_the_home_folder(patient: Any, aws_files: Any) -> None:
    aws_files(credentials=lines(patient))
    assert "shared-credentials-file" in patient.fetch()
    aws_files(config=lines(patient))
    assert "config-file" in patient.fetch()


def test_another_profile(patient: Any, aws_files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n"
    aws_files(credentials=wrong + lines(patient, "ward"))
    with pytest.raises(TransferError, match="403"):
        patient.fetch()
    patient.fetch(profile="ward")
    monkeypatch.setenv("AWS_PROFILE", "ward")
    patient.fetch()
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(ConfigurationError, match="no profile other"):
        patient.fetch()
    with pytest.raises(ConfigurationError, match="no profile third"):
        patient.fetch(profile="third")


def test_the_setting_goes_before_variables_with_keys(
    patient: Any, aws_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws_files(credentials=lines(patient, "ward"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    patient.fetch(profile="ward")


def test_files_elsewhere(patient: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable, name in (("AWS_SHARED_CREDENTIALS_FILE", "default"), ("AWS_CONFIG_FILE", "default")):
        file = tmp_path / variable
        file.write_text(lines(patient, name))
        with monkeypatch.context() as changed:
            changed.setenv(variable, str(file))
            patient.fetch()

"""Keys that a program, a container's service or an instance's metadata service gives."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from medperf_core.errors import AuthenticationError


def test_a_program(patient: Any, aws_files: Any, tmp_path: Path) -> None:
    program = tmp_path / "give-keys"
    (tmp_path / "keys.json").write_text(json.dumps({"Version": 1, **patient.temporary()}))
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncat {tmp_path}/keys.json\n')
    program.chmod(stat.S_IRWXU)
    aws_files(f"[profile ward]\ncredential_process = {program} --for 'ward 7'\n")
    assert "custom-process" in patient.fetch(profile="ward")
    assert (tmp_path / "asked").read_text() == "--for ward 7\n"


def test_a_program_that_fails_tells_no_secret(patient: Any, aws_files: Any, tmp_path: Path) -> None:
    program = tmp_path / "give-keys"
    program.chmod(stat.S_IRWXU) if program.exists() else program.touch(0o700)
    aws_files(f"[profile ward]\ncredential_process = {program}\n")
    for text in ("echo s3cret >&2; exit 1", "echo s3cret", 'echo \'{"Version": 7, "SecretAccessKey": "s3cret"}\''):
        program.write_text(f"#!/bin/sh\n{text}\n")
        with pytest.raises(AuthenticationError) as caught:
            patient.fetch(profile="ward")
        assert "s3cret" not in str(caught.value)


def test_a_container(patient: Any, service: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    front = service(lambda method, path: json.dumps(patient.of_metadata()).encode())
    (tmp_path / "token").write_text("token-of-the-pod")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{front.url}/v1/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    assert "container-role" in patient.fetch()
    ((method, path, headers),) = front.seen
    assert (method, path, headers["authorization"]) == ("GET", "/v1/credentials", "token-of-the-pod")


def test_an_instance(patient: Any, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its second version: a token is asked for first, and every request shows it."""

    def answer(method: str, path: str) -> Any:
        if path == "/latest/api/token":
            assert method == "PUT"
            return b"token-of-the-instance"
        if path.endswith("/security-credentials/"):
            return b"role-of-the-instance"
        return json.dumps(patient.of_metadata()).encode()

    front = service(answer)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", front.url)
    assert "iam-role" in patient.fetch()
    assert [path.rpartition("/")[2] for _, path, _ in front.seen] == ["token", "", "role-of-the-instance"]
    assert "x-aws-ec2-metadata-token-ttl-seconds" in front.seen[0][2]
    assert all(headers["x-aws-ec2-metadata-token"] == "token-of-the-instance" for _, _, headers in front.seen[1:])

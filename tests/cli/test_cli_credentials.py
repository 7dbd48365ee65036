"""Credentials of buckets and registries: stored without being shown, listed by name, forgotten."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from medperf_core import Site
from medperf_core.errors import UsageError

from .conftest import Medperf
from .terminal import Terminal


def stored(home: Path, name: str) -> dict[str, str] | None:
    with Site.open(home) as site:
        return site.credentials.get(name)


def test_the_fields_of_a_store_are_asked_for(medperf: Medperf, home: Path) -> None:
    done = medperf("auth", "store", "s3://bucket", input="AKIA1\nhunter2-hunter2\n\n")
    assert done.exit_code == 0, done.output
    assert "session_token" in done.output and "hunter2" not in done.output
    assert stored(home, "s3://bucket") == {"access_key_id": "AKIA1", "secret_access_key": "hunter2-hunter2"}
    medperf("auth", "store", "s3", input="AKIA2\nother")  # what is left out may also not be there
    assert stored(home, "s3") == {"access_key_id": "AKIA2", "secret_access_key": "other"}
    listed = json.loads(medperf("auth", "stored", "--format", "json").stdout)
    assert [each["name"] for each in listed] == ["s3", "s3://bucket"]
    assert "hunter2" not in medperf("auth", "stored").output
    assert medperf("auth", "forget", "s3://bucket").exit_code == 0
    assert stored(home, "s3://bucket") is None and stored(home, "s3") is not None
    again = medperf("auth", "forget", "s3://bucket")
    assert again.exit_code != 0 and "Stored are: s3." in again.output


def test_a_field_comes_from_a_file(medperf: Medperf, home: Path, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text('{\n "type": "service_account"\n}\n')
    done = medperf("auth", "store", "gs://b", "--from", f"service_account={tmp_path / 'key.json'}")
    assert done.exit_code == 0, done.output
    assert stored(home, "gs://b") == {"service_account": '{\n "type": "service_account"\n}'}
    for wrong in ("service_account", f"service_account={tmp_path / 'nothing'}", f"servise={tmp_path / 'key.json'}"):
        done = medperf("auth", "store", "gs", "--from", wrong)
        assert done.exit_code != 0 and stored(home, "gs") is None, done.output
    assert "Known fields: access_token, service_account." in done.output


def test_a_service_account_is_looked_at_before_it_is_kept(
    medperf: Medperf, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key.json"
    words = ("auth", "store", "gs", "--from", f"service_account={file}")
    for text in ("-----BEGIN PRIVATE KEY-----", "[]", '{"type": "authorized_user"}', "[" * 100_000):
        file.write_text(text)
        done = medperf(*words)
        assert done.exit_code == UsageError.exit_code and "not the text of a service account's" in done.output
        assert stored(home, "gs") is None and "PRIVATE" not in done.output
    file.write_text('{"type": "service_account"}')
    assert "pip install" not in medperf(*words).output
    monkeypatch.setitem(sys.modules, "google.oauth2.service_account", None)
    assert "pip install 'medperf-storage[gs]'" in medperf(*words).output
    assert stored(home, "gs") is not None


def test_nothing_is_kept_for_a_store_that_is_not_there(medperf: Medperf, home: Path) -> None:
    for name in ("s4", "s4://bucket", "azure"):
        done = medperf("auth", "store", name, "token", input="hunter2\n")
        assert done.exit_code == UsageError.exit_code and "Installed stores: file, gs, http" in done.output
        assert "token (Enter" not in done.output and stored(home, name) is None
    for name in ("localhost", "registry.example", "[::1]:5000", "docker", "https://host.example"):
        assert medperf("auth", "store", name, "token", input="hunter2\n").exit_code == 0, name
        assert stored(home, name) == {"token": "hunter2"}


def test_a_registry_needs_its_fields_named(medperf: Medperf, home: Path) -> None:
    done = medperf("auth", "store", "registry.example:5000")
    assert done.exit_code != 0 and "username password" in done.output
    done = medperf("auth", "store", "registry.example:5000", "username", "password", input="me\nhunter2\n")
    assert done.exit_code == 0, done.output
    assert stored(home, "registry.example:5000") == {"username": "me", "password": "hunter2"}


def test_what_cannot_be_stored(medperf: Medperf) -> None:
    assert "nothing to store" in medperf("auth", "store", "s3", input="\n\n\n").output
    for name in ("s3://a b", "", "s3://bucket/"):
        assert medperf("auth", "store", name, "token", input="x\n").exit_code != 0
    assert "No credentials are stored." in medperf("auth", "stored").output


def test_a_login_is_not_among_them(medperf: Medperf, home: Path) -> None:
    with Site.open(home) as site:
        site.credentials.put("default https://medperf.example", {"username": "me"})
    assert "medperf.example" not in medperf("auth", "stored").output
    assert medperf("auth", "forget", "default https://medperf.example").exit_code != 0
    assert stored(home, "default https://medperf.example")


def test_nothing_is_shown_as_it_is_typed(environment: dict[str, str], home: Path) -> None:
    terminal = Terminal([sys.executable, "-m", "medperf_core.cli", "auth", "store", "gs"], environment)
    terminal.wait_for("access_token")
    terminal.type("hunter2-hunter2\n")
    terminal.wait_for("service_account")
    terminal.type("\n")
    assert terminal.end() == 0
    assert "hunter2" not in terminal.seen
    assert stored(home, "gs") == {"access_token": "hunter2-hunter2"}

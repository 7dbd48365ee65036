"""Stored credentials: private files, and values that logs learn to hide."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from medperf_core.errors import ConfigurationError
from medperf_core.site.credentials import CredentialStore
from medperf_core.site.home import Home
from medperf_core.site.redact import Redactor

NAME = "default https://host/../../etc"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


def only_file(home: Home) -> Path:
    [file] = home.credentials_dir.iterdir()
    return file


def test_put_get_delete(home: Home) -> None:
    store = CredentialStore(home)
    assert store.get(NAME) is None
    store.put(NAME, {"token": "eins"})
    store.put("other", {"token": "zwei"})
    assert CredentialStore(home).get(NAME) == {"token": "eins"}
    store.put(NAME, {"token": "drei", "user": "ä"})
    assert store.get(NAME) == {"token": "drei", "user": "ä"}
    store.delete(NAME)
    store.delete(NAME)
    assert store.get(NAME) is None
    assert store.get("other") == {"token": "zwei"}


def test_files_are_private_and_names_do_not_become_paths(home: Home) -> None:
    CredentialStore(home).put(NAME, {"token": "eins"})
    file = only_file(home)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.credentials_dir.stat().st_mode) == 0o700
    assert len(file.stem) == 64
    assert "host" not in file.name


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_use_is_not_read(home: Home, mode: int) -> None:
    store = CredentialStore(home)
    store.put(NAME, {"token": "eins"})
    only_file(home).chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        store.get(NAME)
    assert str(only_file(home)) in str(caught.value)
    only_file(home).chmod(0o600)
    assert store.get(NAME) == {"token": "eins"}


def test_a_link_to_another_file_is_not_followed(home: Home, tmp_path: Path) -> None:
    store = CredentialStore(home)
    store.put(NAME, {"token": "eins"})
    file = only_file(home)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        store.get(NAME)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"credentials": 3}', '{"credentials": {"a": 1}}', "[" * 99_999])
def test_a_damaged_file_is_named_without_its_content(home: Home, text: str) -> None:
    store = CredentialStore(home)
    store.put(NAME, {"token": "eins"})
    only_file(home).write_text(text)
    with pytest.raises(ConfigurationError, match="damaged"):
        store.get(NAME)


def test_values_are_hidden_from_logs_once_stored_or_read(home: Home) -> None:
    stored, read = Redactor(), Redactor()
    CredentialStore(home, stored.add).put(NAME, {"token": "correct-horse"})
    CredentialStore(home, read.add).get(NAME)
    for redact in (stored, read):
        assert redact("say correct-horse!") == "say [redacted]!"

"""The file of the site's own key: nobody else's, and nothing but a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from medperf_core.errors import ConfigurationError
from medperf_core.site.home import Home
from medperf_core.site.keys import KeyStore


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(Home.open(tmp_path / "home"))


def with_mode(file: Path) -> None:
    file.chmod(0o604)


def as_link(file: Path) -> None:
    file.rename(file.with_name("other.pem"))
    file.symlink_to("other.pem")


def as_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir(0o700)


def as_nothing(file: Path) -> None:
    file.write_text("")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_mode, "others may read it"),
        (as_link, "symbolic links"),
        (as_pipe, "not a file of this user"),
        (as_folder, "not a file of this user"),
        (as_nothing, "damaged"),
    ],
)
def test_what_is_not_used(store: KeyStore, change: Callable[[Path], None], words: str) -> None:
    store.make()
    change(store.file)
    for use in (store.read, store.make):
        with pytest.raises(ConfigurationError, match=f"cannot be used: .*{words}.*medperf site key"):
            use()


def test_a_key_of_somebody_else_is_not_used(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.make()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigurationError, match="not a file of this user"):
        store.read()


def test_a_folder_that_others_could_write_to_is_closed(store: KeyStore) -> None:
    store.file.parent.mkdir()
    store.file.parent.chmod(0o777)
    made = store.make()
    assert stat.S_IMODE(store.file.parent.stat().st_mode) == 0o700
    store.file.parent.chmod(0o755)
    assert store.make().public == made.public
    assert stat.S_IMODE(store.file.parent.stat().st_mode) == 0o700


def test_a_folder_that_is_none(store: KeyStore) -> None:
    store.file.parent.write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot be used: its folder: File exists"):
        store.make()

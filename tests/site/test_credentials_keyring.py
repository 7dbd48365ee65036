"""Credentials in the system's keyring: a real Secret Service, and keyrings that must not be trusted with a secret."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keyring
import pytest
import secretstorage
from keyring.backend import KeyringBackend
from keyring.backends import SecretService, chainer, fail, null
from keyring.errors import PasswordSetError
from secretstorage.util import DBusAddressWrapper, format_secret, open_session

from medperf_core.errors import AuthenticationError, ConfigurationError
from medperf_core.site.credentials import CredentialStore
from medperf_core.site.credentials_keyring import LARGEST, SystemKeyring
from medperf_core.site.home import Home
from medperf_core.site.logs import CommandLog, bundle
from medperf_core.site.profiles import ProfileStore
from medperf_core.site.redact import Redactor
from tests.engines import require

NAME = "default https://host/../../etc"
SECRET = "correct-horse-battery"
MakeStore = Callable[..., CredentialStore]


class Collection:
    """A keyring of one test's own beside the default one, locked and unlocked as a desktop's log-in does it."""

    def __init__(self, password: str) -> None:
        self._bus = secretstorage.dbus_init()
        self._session = open_session(self._bus)
        self._password = password
        interface = "org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface"
        self._daemon = DBusAddressWrapper("/org/freedesktop/secrets", interface, self._bus)
        label = {"org.freedesktop.Secret.Collection.Label": ("s", "medperf test")}
        (self.path,) = self._daemon.call("CreateWithMasterPassword", "a{sv}(oayays)", label, self._master())
        self.found = secretstorage.Collection(self._bus, self.path)

    def _master(self) -> Any:
        return format_secret(self._session, self._password.encode(), "text/plain")

    def lock(self) -> None:
        self.found.lock()

    def unlock(self) -> None:
        self._daemon.call("UnlockWithMasterPassword", "o(oayays)", self.path, self._master())

    def close(self) -> None:
        self.unlock()
        self.found.delete()
        self._bus.close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


@pytest.fixture
def collection(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collection]:
    engine = require("keyring")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", engine["MEDPERF_TEST_KEYRING_BUS"])
    made = Collection(engine["MEDPERF_TEST_KEYRING_PASSWORD"])
    yield made
    made.close()


@pytest.fixture
def backend(collection: Collection) -> KeyringBackend:
    found: Any = SecretService.Keyring  # its constructor has no types
    made: Any = found()
    made.preferred_collection = collection.path
    assert isinstance(made, KeyringBackend)
    return made


@pytest.fixture
def make_store(home: Home, backend: KeyringBackend) -> MakeStore:
    def make(place: str = "keyring", in_home: Home = home, **more: Any) -> CredentialStore:
        return CredentialStore(in_home, place=place, keyring=lambda: SystemKeyring(backend), **more)

    return make


def only_file(home: Home) -> Path:
    [file] = home.credentials_dir.iterdir()
    return file


def secrets_in(collection: Collection) -> list[str]:
    return [item.get_secret().decode() for item in collection.found.get_all_items()]


def test_put_get_delete_in_a_real_keyring(make_store: MakeStore, home: Home, collection: Collection) -> None:
    store = make_store()
    assert store.get(NAME) is None
    store.check()
    store.put(NAME, {"token": SECRET})
    store.put("other", {"token": "zwei"})
    assert make_store().get(NAME) == {"token": SECRET}
    assert sorted(secrets_in(collection)) == sorted([json.dumps({"token": SECRET}), json.dumps({"token": "zwei"})])
    everything = "".join(file.read_text() for file in home.path.rglob("*") if file.is_file())
    assert SECRET not in everything
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in home.credentials_dir.iterdir())
    assert "keyring" in store.where(NAME) and NAME in store.where(NAME)
    store.put(NAME, {"token": "drei", "user": "ä"})
    assert store.get(NAME) == {"token": "drei", "user": "ä"}
    store.delete(NAME)
    store.delete(NAME)
    assert store.get(NAME) is None and store.get("other") == {"token": "zwei"}
    assert secrets_in(collection) == ['{"token": "zwei"}']
    assert str(home.credentials_dir) in store.where(NAME)


def test_each_home_has_entries_of_its_own(make_store: MakeStore, tmp_path: Path) -> None:
    stores = [make_store(in_home=Home.open(tmp_path / name)) for name in ("one", "two")]
    stores[0].put(NAME, {"token": "eins"})
    assert stores[1].get(NAME) is None
    stores[1].put(NAME, {"token": "zwei"})
    stores[1].delete(NAME)
    assert stores[0].get(NAME) == {"token": "eins"}


def test_a_login_is_found_where_it_was_put_and_moves_with_the_next_one(
    make_store: MakeStore, home: Home, collection: Collection
) -> None:
    make_store("file").put(NAME, {"token": "in a file"})
    assert make_store("keyring").get(NAME) == {"token": "in a file"}
    assert make_store("keyring").where(NAME) == f"in the file {only_file(home)}"
    make_store("keyring").put(NAME, {"token": SECRET})
    assert "in a file" not in only_file(home).read_text()
    assert make_store("file").get(NAME) == {"token": SECRET}
    make_store("file").put(NAME, {"token": "in a file again"})
    assert make_store("keyring").get(NAME) == {"token": "in a file again"}
    assert secrets_in(collection) == []


def test_a_login_of_a_home_that_was_moved_is_replaced_not_left(
    make_store: MakeStore, home: Home, tmp_path: Path, collection: Collection
) -> None:
    make_store().put(NAME, {"token": SECRET})
    moved = Home.open(home.path.rename(tmp_path / "moved"))
    assert make_store(in_home=moved).get(NAME) == {"token": SECRET}
    make_store(in_home=moved).put(NAME, {"token": "new"})
    assert secrets_in(collection) == ['{"token": "new"}']
    assert make_store(in_home=moved).get(NAME) == {"token": "new"}


def test_a_locked_keyring_says_so_and_keeps_what_it_has(
    make_store: MakeStore, home: Home, collection: Collection
) -> None:
    store = make_store()
    store.put(NAME, {"token": SECRET})
    before = only_file(home).read_text()
    collection.lock()
    actions: list[Callable[[], object]] = [
        store.check,
        lambda: store.get(NAME),
        lambda: store.put(NAME, {"token": "new"}),
        lambda: store.delete(NAME),
    ]
    for action in actions:
        with pytest.raises(ConfigurationError, match=r"is locked\. Unlock it .*credentials=file"):
            action()
    assert only_file(home).read_text() == before
    said: list[str] = []
    make_store("file", warn=said.append).put(NAME, {"token": "in a file"})
    assert len(said) == 1 and "older login is still in the system keyring" in said[0] and SECRET not in said[0]
    assert make_store().get(NAME) == {"token": "in a file"}
    collection.unlock()
    only_file(home).write_text(before)
    assert store.get(NAME) == {"token": SECRET}


def test_an_entry_that_has_gone_or_is_damaged_is_named(make_store: MakeStore, collection: Collection) -> None:
    store = make_store()
    store.put(NAME, {"token": SECRET})
    [item] = collection.found.get_all_items()
    item.set_secret(b'{"token": 3, "x": "' + SECRET.encode() + b'"}')
    with pytest.raises(ConfigurationError, match=r"damaged\. Log in again") as damaged:
        store.get(NAME)
    assert SECRET not in str(damaged.value)
    item.delete()
    with pytest.raises(AuthenticationError, match=r"put into the system keyring .* is not there\. Log in again"):
        store.get(NAME)
    store.put(NAME, {"token": "new"})
    assert store.get(NAME) == {"token": "new"}


def test_a_login_that_is_too_long_is_refused_and_nothing_is_lost(
    make_store: MakeStore, home: Home, collection: Collection
) -> None:
    make_store("file").put(NAME, {"token": SECRET})
    with pytest.raises(ConfigurationError, match=f"may have {LARGEST}; it was not stored"):
        make_store().put(NAME, {"token": "x" * LARGEST})
    assert make_store().get(NAME) == {"token": SECRET} and secrets_in(collection) == []
    make_store().put(NAME, {"token": "x" * (LARGEST - 20)})
    assert make_store().get(NAME) == {"token": "x" * (LARGEST - 20)}


def test_logs_and_bundles_hide_what_is_in_a_keyring(
    make_store: MakeStore, home: Home, tmp_path: Path, backend: KeyringBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store().put(NAME, {"token": SECRET})
    monkeypatch.setattr(keyring, "get_keyring", lambda: backend)
    read = Redactor()
    make_store(on_secret=read.add).get(NAME)
    assert read(f"say {SECRET}!") == "say [redacted]!"
    (home.logs_dir / "medperf-20260101T000000000000Z-1.log").write_text(f"bare {SECRET}")
    bundle(home, tmp_path / "b.tar.gz", Redactor())
    shown = subprocess.run(["tar", "xzOf", tmp_path / "b.tar.gz"], capture_output=True, text=True, check=True).stdout
    assert "bare" in shown and SECRET not in shown


def test_a_command_s_log_unlocks_no_keyring(
    make_store: MakeStore,
    home: Home,
    tmp_path: Path,
    collection: Collection,
    backend: KeyringBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_store().put(NAME, {"token": SECRET})
    collection.lock()

    asked: list[str] = []

    def get_keyring() -> KeyringBackend:
        asked.append("once")
        return backend

    monkeypatch.setattr(keyring, "get_keyring", get_keyring)
    with CommandLog(home, Redactor()):
        pass
    assert not asked
    bundle(home, tmp_path / "b.tar.gz", Redactor())  # goes on with what it knows
    assert asked


@pytest.mark.parametrize("note", ['{"keyring": {"service": "github.com", "user": "me"}}', '{"keyring": {}}', "[]"])
def test_a_note_that_leads_elsewhere_is_damaged(make_store: MakeStore, home: Home, note: str) -> None:
    store = make_store()
    store.put(NAME, {"token": SECRET})
    only_file(home).write_text(note)
    with pytest.raises(ConfigurationError, match="damaged"):
        store.get(NAME)


# --- keyrings that must not be trusted --------------------------------------------------------------------------------


class PlaintextKeyring(KeyringBackend):
    """Like those that keep everything in an open file; of a package that is not keyring's own."""

    priority = 1

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


class Cutting(PlaintextKeyring):
    """Keeps the first bytes only, as some keyrings do."""

    def set_password(self, service: str, username: str, password: str) -> None:
        super().set_password(service, username, password[:10])


class Telling(PlaintextKeyring):
    """Its error repeats what it was given."""

    def set_password(self, service: str, username: str, password: str) -> None:
        raise PasswordSetError(f"cannot store {password}")


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (fail.Keyring, "No system keyring answers"),
        (null.Keyring, "forgets what it is given"),
        (PlaintextKeyring, "plain text"),
        (chainer.ChainerBackend, "No system keyring answers|chainer"),
    ],
)
def test_a_keyring_that_loses_or_shows_secrets_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch, chosen: Callable[[], KeyringBackend], words: str
) -> None:
    found = chosen()
    if isinstance(found, chainer.ChainerBackend):
        monkeypatch.setattr(chainer.ChainerBackend, "backends", ())
    monkeypatch.setattr(keyring, "get_keyring", lambda: found)
    store = CredentialStore(home, place="keyring")
    for action in (store.check, lambda: store.put(NAME, {"token": SECRET})):
        with pytest.raises(ConfigurationError, match=words) as refused:
            action()
        assert "credentials=file" in str(refused.value)
    assert not list(home.credentials_dir.iterdir())


def test_of_several_keyrings_the_first_must_be_the_system_s(
    home: Home, monkeypatch: pytest.MonkeyPatch, backend: KeyringBackend, collection: Collection
) -> None:
    chosen: Callable[[], KeyringBackend] = chainer.ChainerBackend
    chain, plain = chosen(), PlaintextKeyring()
    monkeypatch.setattr(keyring, "get_keyring", lambda: chain)
    monkeypatch.setattr(chainer.ChainerBackend, "backends", (plain, backend))
    store = CredentialStore(home, place="keyring")
    with pytest.raises(ConfigurationError, match="plain text"):
        store.put(NAME, {"token": SECRET})
    monkeypatch.setattr(chainer.ChainerBackend, "backends", (backend, plain))
    store.put(NAME, {"token": SECRET})
    assert not plain.kept and secrets_in(collection) == [json.dumps({"token": SECRET})]


def test_a_keyring_that_keeps_a_part_only_is_noticed(home: Home) -> None:
    cutting = Cutting()
    CredentialStore(home).put(NAME, {"token": "before"})
    store = CredentialStore(home, place="keyring", keyring=lambda: SystemKeyring(cutting))
    with pytest.raises(ConfigurationError, match="did not keep what it was given; nothing is stored"):
        store.put(NAME, {"token": SECRET})
    assert not cutting.kept and store.get(NAME) == {"token": "before"}


class Shrinking(PlaintextKeyring):
    """Keeps less of each entry than of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.room = 30

    def set_password(self, service: str, username: str, password: str) -> None:
        super().set_password(service, username, password[: self.room])
        self.room -= 10


def test_a_login_that_was_there_before_survives_a_keyring_that_cuts_off(home: Home) -> None:
    cutting = Cutting()
    backend = SystemKeyring(cutting)
    backend.put("medperf x", "me", "short")
    with pytest.raises(ConfigurationError, match=r"did not keep .*; what was stored before is still there"):
        backend.put("medperf x", "me", "longer than it keeps")
    assert cutting.kept == {("medperf x", "me"): "short"}
    shrinking = Shrinking()
    backend = SystemKeyring(shrinking)
    backend.put("medperf x", "me", "thirty letters, which it keeps")
    with pytest.raises(ConfigurationError, match="what was stored before is lost too"):
        backend.put("medperf x", "me", "thirty letters, which it cuts.")


def test_an_error_never_repeats_a_secret(home: Home) -> None:
    store = CredentialStore(home, place="keyring", keyring=lambda: SystemKeyring(Telling()))
    with pytest.raises(ConfigurationError, match=r"cannot be written to \(PasswordSetError\)") as failed:
        store.put(NAME, {"token": SECRET})
    assert SECRET not in str(failed.value) and failed.value.__cause__ is None and failed.value.__context__ is None


# --- the command line -------------------------------------------------------------------------------------------------


def medperf(home: Home, *words: str, variables: Mapping[str, str], code: int = 0) -> str:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home.path.parent), "MEDPERF_HOME": str(home.path), **variables}
    command = [sys.executable, "-m", "medperf_core.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home.path.parent, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def with_server(home: Home) -> Home:
    ProfileStore(home).update("default", {"server": f"embedded:{home.path.parent / 'registry.db'}"})
    return home


def test_the_commands_use_the_keyring_of_the_session(with_server: Home, collection: Collection) -> None:
    home = with_server
    there = {
        "DBUS_SESSION_BUS_ADDRESS": require("keyring")["MEDPERF_TEST_KEYRING_BUS"],
        "KEYRING_PROPERTY_PREFERRED_COLLECTION": collection.path,
    }
    medperf(home, "auth", "login", "--user", "admin", variables={})
    medperf(home, "profile", "set", "credentials=keyring", variables={})
    assert "kept in the file" in medperf(
        home, "auth", "status", variables={}
    )  # still logged in, and it says where that is
    medperf(home, "auth", "login", "--user", "admin", variables=there)
    assert secrets_in(collection) == ['{"username": "admin"}']
    assert "as admin" in medperf(home, "auth", "status", variables=there)
    assert "kept in the system keyring" in medperf(home, "auth", "status", variables=there)
    nowhere = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={home.path}/none"}
    for words in (("auth", "status"), ("auth", "login", "--user", "admin"), ("benchmark", "ls")):
        assert "No system keyring answers" in medperf(home, *words, code=3, variables=nowhere)
    null_ring = {**there, "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
    assert "keyring.backends.null" in medperf(home, "auth", "status", code=3, variables=null_ring)
    collection.lock()
    assert "is locked" in medperf(home, "benchmark", "ls", code=3, variables=there)
    collection.unlock()
    medperf(home, "auth", "logout", variables=there)
    assert secrets_in(collection) == []
    assert "Nobody is logged in" in medperf(home, "auth", "status", variables=nowhere)


def test_the_package_is_imported_only_when_used_and_named_when_missing(with_server: Home, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "keyring.py").write_text("raise ImportError('hidden')\n")
    without = {"PYTHONPATH": str(hidden)}
    medperf(with_server, "auth", "login", "--user", "admin", variables=without)
    medperf(with_server, "profile", "set", "credentials=keyring", variables=without)
    medperf(with_server, "auth", "status", variables=without)
    said = medperf(with_server, "auth", "login", "--user", "admin", code=3, variables=without)
    assert "pip install 'medperf-core[keyring]'" in said and "credentials=file" in said

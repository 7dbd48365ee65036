"""Stored credentials: one file per name that only its owner can read, or an entry of the system's keyring.

With a keyring, the file holds no secret but a note of the entry. So a login is found wherever it was put, also after
the profile's choice has changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from medperf_core.errors import AuthenticationError, ConfigurationError
from medperf_core.site.atomic import write_atomically
from medperf_core.site.credentials_keyring import SystemKeyring
from medperf_core.site.home import Home, locked

logger = logging.getLogger(__name__)
_SERVICE = "medperf "
_NO_SECRETS = ("username", "email")  # who is logged in is shown to the person


@attrs.frozen
class _Entry:
    """One entry of the keyring."""

    service: str
    user: str


class CredentialStore:
    """Credentials by name, such as a profile and its server; maps of text to text.

    Args:
        home: where they are kept. Each home has its own, also in the keyring.
        on_secret: is told every value that is read or stored, less names of users, so that logs can keep it out
            (``Redactor.add``).
        place: where new ones are put: ``file`` or ``keyring``.
        warn: is told, in a sentence, what did not hinder but should be known.
        keyring: opens the system's keyring.
    """

    def __init__(
        self,
        home: Home,
        on_secret: Callable[[str], None] | None = None,
        *,
        place: str = "file",
        warn: Callable[[str], None] = logger.warning,
        keyring: Callable[[], SystemKeyring] = SystemKeyring.open,
    ) -> None:
        self._folder = home.credentials_dir
        self._lock = home.locks / "credentials.lock"
        self._service = f"{_SERVICE}{home.path}"
        self._on_secret = on_secret
        self._place = place
        self._warn = warn
        self._keyring = keyring

    def get(self, name: str) -> dict[str, str] | None:
        """What is stored under ``name``; None if nothing is.

        Raises:
            ConfigurationError: the file is damaged, others than its owner can read or write it, or the keyring cannot
                be used.
            AuthenticationError: they were put into the keyring and are not there.
        """
        return self._load(self._file(name))

    def where(self, name: str) -> str:
        """Where what is stored under ``name`` is, or was looked for: to follow a verb such as "is kept"."""
        file = self._file(name)
        try:
            found = self._read(file)
        except ConfigurationError:
            return f"in the file {file}"
        if isinstance(found, _Entry):
            return f"in the system keyring, as {found.user!r} of {found.service!r}"
        return f"in the folder {self._folder}" if found is None else f"in the file {file}"

    def names(self) -> list[str]:
        """Under which names something is stored, in alphabetical order; a damaged file has none."""
        found = []
        for file in self._folder.glob("[!.]*.json"):
            try:
                name = json.loads(_read_private(file))["name"]
            except (ConfigurationError, OSError, ValueError, LookupError, TypeError, RecursionError):
                continue  # whoever needs it will hear of it
            if isinstance(name, str) and self._file(name) == file:
                found.append(name)
        return sorted(found)

    def check(self) -> None:
        """See that credentials can be stored, before somebody takes the trouble to log in.

        Raises:
            ConfigurationError: the keyring cannot be used.
        """
        if self._place == "keyring":
            self._keyring().get(self._service, "")

    def register_all(self, *, keyring: bool = False) -> None:
        """Tell ``on_secret`` all that is stored in files, so that a log knows it from its first line on.

        Args:
            keyring: also what is in the keyring, which may ask the person to unlock it. Else it is told when it is
                read, before anybody can write it to a log.
        """
        for file in self._folder.glob("[!.]*.json"):
            try:
                if keyring or not isinstance(self._read(file), _Entry):
                    self._load(file)
            except (ConfigurationError, AuthenticationError):
                continue  # whoever needs it will hear of it

    def put(self, name: str, credentials: Mapping[str, str]) -> None:
        """Store credentials, in place of those that were there.

        Raises:
            ConfigurationError: the keyring cannot be used; what was stored before is still there.
        """
        kept = self._told(dict(credentials))
        with locked(self._lock, "the stored credentials"):
            before = self._entry(name)
            entry = _Entry(self._service, name) if self._place == "keyring" else None
            if entry is not None:
                self._keyring().put(entry.service, entry.user, json.dumps(kept))
                self._write(name, {"keyring": attrs.asdict(entry)})
            else:
                self._write(name, {"credentials": kept})
            if before is not None and before != entry:  # also where the home was moved since
                self._forget_old(before)

    def delete(self, name: str) -> None:
        """Forget what is stored under ``name``, if anything is.

        Raises:
            ConfigurationError: it is in the keyring, which cannot be used; it is still there.
        """
        with locked(self._lock, "the stored credentials"):
            entry = self._entry(name)
            if entry is not None:
                self._keyring().delete(entry.service, entry.user)
            self._file(name).unlink(missing_ok=True)

    def _load(self, file: Path) -> dict[str, str] | None:
        found = self._read(file)
        if not isinstance(found, _Entry):
            return found if found is None else self._told(found)
        text = self._keyring().get(found.service, found.user)
        if text is None:
            raise AuthenticationError(
                f"The login was put into the system keyring as {found.user!r} of {found.service!r}, and is not there.",
                hint="Log in again with: medperf auth login",
            )
        try:
            return self._told(_texts(json.loads(text)))
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise ConfigurationError(
                f"The entry {found.user!r} of {found.service!r} in the system keyring is damaged.",
                hint="Log in again with: medperf auth login",
            ) from None

    def _read(self, file: Path) -> dict[str, str] | _Entry | None:
        """What a file holds: credentials, or the note of an entry in the keyring; None if there is no file."""
        try:
            text = _read_private(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(
                f"The credentials in {file} cannot be read: {error.strerror}.", hint="Log in again, or remove the file."
            ) from None
        try:
            data = json.loads(text)
            if "keyring" not in data:
                return _texts(data["credentials"])
            entry = _Entry(**_texts(data["keyring"]))
            if not entry.service.startswith(_SERVICE):
                raise ValueError("somebody else's entry")
            return entry
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise ConfigurationError(
                f"The credentials in {file} are damaged.", hint="Remove the file and log in again."
            ) from None

    def _entry(self, name: str) -> _Entry | None:
        try:
            found = self._read(self._file(name))
        except ConfigurationError:
            return None
        return found if isinstance(found, _Entry) else None

    def _forget_old(self, entry: _Entry) -> None:
        try:
            self._keyring().delete(entry.service, entry.user)
        except ConfigurationError as error:
            self._warn(
                f"An older login is still in the system keyring, as {entry.user!r} of {entry.service!r}, and could not "
                f"be removed there: {error.message} It is no longer used."
            )

    def _write(self, name: str, content: Mapping[str, Mapping[str, str]]) -> None:
        write_atomically(self._file(name), json.dumps({"name": name, **content}), mode=0o600)

    def _file(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.json"

    def _told(self, credentials: dict[str, str]) -> dict[str, str]:
        if self._on_secret is not None:
            for key, value in credentials.items():
                if key not in _NO_SECRETS:
                    self._on_secret(value)
        return credentials


def _texts(found: dict[str, str]) -> dict[str, str]:
    """A map of text to text; another one is a TypeError or AttributeError."""
    if not all(isinstance(word, str) for item in found.items() for word in item):
        raise TypeError("not a map of text to text")
    return found


def _read_private(file: Path) -> str:
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise ConfigurationError(
                f"The credentials in {file} are not a file of this user.", hint="Remove it and log in again."
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigurationError(
                f"The credentials in {file} can be read or changed by other users of this machine; they were not used.",
                hint=f"If nobody else has had them, run: chmod 600 {file}; otherwise remove it and log in again.",
            )
        return stream.read().decode("utf-8", "replace")

"""Stored credentials: one file per name that only its owner can read."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from medperf_core.errors import ConfigurationError
from medperf_core.site.atomic import write_atomically
from medperf_core.site.home import Home, locked


class CredentialStore:
    """Credentials by name, such as a profile and its server; maps of text to text.

    Args:
        home: where they are kept.
        on_secret: is told every value that is read or stored, so that logs can keep it out
            (``Redactor.add``).
    """

    def __init__(self, home: Home, on_secret: Callable[[str], None] | None = None) -> None:
        self._folder = home.credentials_dir
        self._lock = home.locks / "credentials.lock"
        self._on_secret = on_secret

    def get(self, name: str) -> dict[str, str] | None:
        """What is stored under ``name``; None if nothing is.

        Raises:
            ConfigurationError: the file is damaged, or others than its owner can read or write it.
        """
        return self._load(self._file(name))

    def register_all(self) -> None:
        """Tell ``on_secret`` all that is stored, so that a log knows it from its first line on."""
        for file in self._folder.glob("[!.]*.json"):
            try:
                self._load(file)
            except ConfigurationError:
                continue  # whoever needs it will hear of it

    def _load(self, file: Path) -> dict[str, str] | None:
        try:
            text = _read_private(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(
                f"The credentials in {file} cannot be read: {error.strerror}.", hint="Log in again, or remove the file."
            ) from None
        try:
            found = json.loads(text)["credentials"]
            if not all(isinstance(word, str) for item in found.items() for word in item):
                raise TypeError
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise ConfigurationError(
                f"The credentials in {file} are damaged.", hint="Remove the file and log in again."
            ) from None
        return self._told(found)

    def put(self, name: str, credentials: Mapping[str, str]) -> None:
        """Store credentials, in place of those that were there."""
        kept = self._told(dict(credentials))
        with locked(self._lock, "the stored credentials"):
            write_atomically(self._file(name), json.dumps({"name": name, "credentials": kept}), mode=0o600)

    def delete(self, name: str) -> None:
        """Forget what is stored under ``name``, if anything is."""
        with locked(self._lock, "the stored credentials"):
            self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.json"

    def _told(self, credentials: dict[str, str]) -> dict[str, str]:
        if self._on_secret is not None:
            for value in credentials.values():
                self._on_secret(value)
        return credentials


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

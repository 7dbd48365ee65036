"""The system's keyring, through PyPI's ``keyring``: only services that keep secrets encrypted are used.

``keyring`` (extra ``medperf-core[keyring]``) is imported when a login is first stored in or read from a keyring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from medperf_core.errors import ConfigurationError

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

LARGEST = 64 * 1024
"""Bytes that one login may have; some keyrings cut off or refuse longer ones without saying so."""

T = TypeVar("T")
_OWN = "keyring.backends."
_ENCRYPTED = ("SecretService", "libsecret", "kwallet", "macOS")
_INSTEAD = "or keep logins in private files: medperf profile set credentials=file, then medperf auth login"


class SystemKeyring:
    """One keyring service. Its entries are texts by service and user.

    Raises:
        ConfigurationError: by every method, when the keyring is locked, has gone or does not do what was asked.
    """

    def __init__(self, backend: KeyringBackend) -> None:
        self._backend = backend

    @classmethod
    def open(cls) -> Self:
        """The keyring of this session.

        Raises:
            ConfigurationError: the package is not installed, no keyring runs, or the one that was chosen for
                ``keyring`` forgets what it is given or may keep it in plain text.
        """
        try:
            import keyring
        except ImportError:
            raise ConfigurationError(
                "Logins are kept in the system keyring here, and the Python package keyring, which reads it, is not "
                "installed.",
                hint=f"Run: pip install 'medperf-core[keyring]'; {_INSTEAD}",
            ) from None
        found = _asked(keyring.get_keyring, "cannot be opened", told=True)
        parts = getattr(found, "backends", None) if type(found).__module__ == f"{_OWN}chainer" else None
        chosen: Any = parts[0] if parts else found
        module, name = type(chosen).__module__, f"{type(chosen).__module__}.{type(chosen).__qualname__}"
        if module in (f"{_OWN}fail", f"{_OWN}chainer"):
            raise ConfigurationError(
                "No system keyring answers in this session.",
                hint="Log in at a desktop that has one (Secret Service or KWallet), or start one for this session "
                f"(gnome-keyring-daemon on a message bus that DBUS_SESSION_BUS_ADDRESS names); {_INSTEAD}",
            )
        if not module.startswith(_OWN) or module.removeprefix(_OWN).partition(".")[0] not in _ENCRYPTED:
            raise ConfigurationError(
                f"The keyring that is chosen here is {name}; it is not used, because it forgets what it is given, or "
                "may keep it in plain text.",
                hint="Remove that choice (PYTHON_KEYRING_BACKEND, or keyringrc.cfg) so that the system's own keyring "
                f"is taken; {_INSTEAD}",
            )
        return cls(chosen)

    def get(self, service: str, user: str) -> str | None:
        """The text of an entry; None if there is none."""
        return _asked(lambda: self._backend.get_password(service, user), "cannot be read", told=True)

    def put(self, service: str, user: str, text: str) -> None:
        """Store an entry in place of the one that was there, and see that it is there; else the old one is again."""
        size = len(text.encode())
        if size > LARGEST:
            raise ConfigurationError(
                f"This login has {size} bytes, and a keyring's entry may have {LARGEST}; it was not stored.",
                hint=f"Log in in a way that gives a shorter token; {_INSTEAD}",
            )
        before = self.get(service, user)
        if self._kept(service, user, text):
            return
        if before is None:
            self.delete(service, user)
            left = "nothing is stored"
        elif self._kept(service, user, before):
            left = "what was stored before is still there"
        else:
            left = "what was stored before is lost too"
        raise ConfigurationError(
            f"The system keyring did not keep what it was given; {left}.",
            hint=f"Look at it with the desktop's own program for passwords; {_INSTEAD}",
        )

    def _kept(self, service: str, user: str, text: str) -> bool:
        """Write an entry; whether it is there then."""
        # What a keyring says of a failure might repeat what it was given.
        _asked(lambda: self._backend.set_password(service, user, text), "cannot be written to", told=False)
        return self.get(service, user) == text

    def delete(self, service: str, user: str) -> None:
        """Forget an entry, if there is one."""
        if self.get(service, user) is not None:
            _asked(lambda: self._backend.delete_password(service, user), "cannot be written to", told=True)


def _asked(question: Callable[[], T], cannot: str, *, told: bool) -> T:
    """What a keyring answers; backends raise errors of all kinds, also those of their message bus."""
    try:
        return question()
    except Exception as error:
        name = type(error).__name__
        reason = f"{name}: {' '.join(str(error).split())[:200].rstrip('.')}" if told and str(error).strip() else name
    if name == "KeyringLocked":
        raise ConfigurationError(
            "The system keyring is locked.",
            hint=f"Unlock it (log in at the desktop, or answer the question it shows) and try again; {_INSTEAD}",
        )
    raise ConfigurationError(
        f"The system keyring {cannot} ({reason}).",
        hint=f"See that it runs and is unlocked, and try again; {_INSTEAD}",
    )

"""The key pair of this site, with which the makers of bundles sign: Ed25519 (RFC 8032).

The private key is ``keys/site.pem`` in the home (PKCS #8, not encrypted, mode 0600). A public key is known by its
fingerprint, as OpenSSH writes it: ``SHA256:`` and the base64, without ``=``, of the SHA-256 over the key in the wire
format of RFC 8709 (the string ``ssh-ed25519``, then the 32 bytes, each with its length before it as a 32-bit number).
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from medperf_core.errors import ConfigurationError, NotFoundError, UsageError, VerificationError
from medperf_core.site.atomic import write_atomically
from medperf_core.site.home import Home, locked

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
_NAME = b"ssh-ed25519"
_PEM_LIMIT = 4096


def fingerprint(public: bytes) -> str:
    """The fingerprint of a public key of 32 bytes."""
    wire = b"".join(struct.pack(">I", len(part)) + part for part in (_NAME, public))
    return "SHA256:" + base64.b64encode(hashlib.sha256(wire).digest()).decode().rstrip("=")


def check_fingerprint(text: str) -> str:
    """The text, if it is a fingerprint.

    Raises:
        UsageError: it is none.
    """
    if not FINGERPRINT.fullmatch(text):
        raise UsageError(
            f"{text!r} is not the fingerprint of a key.",
            hint="It is SHA256: and 43 letters, digits, + and /, as medperf site key prints it.",
        )
    return text


def verify(public: bytes, signature: bytes, message: bytes) -> None:
    """Check a signature.

    Raises:
        VerificationError: it is not by this key over these bytes.
    """
    from cryptography.exceptions import InvalidSignature  # here: most commands verify nothing
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise VerificationError("The signature is not that of the key over these bytes.") from error


@attrs.frozen
class SiteKey:
    """A key pair that was read.

    Attributes:
        public: 32 bytes.
    """

    public: bytes
    _private: Ed25519PrivateKey = attrs.field(repr=False, eq=False)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.public)

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._private.sign(message)

    def public_pem(self) -> str:
        """The public key as PEM (SubjectPublicKeyInfo)."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class KeyStore:
    """Where the key pair of a home is."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.file: Path = home.keys_dir / "site.pem"

    def exists(self) -> bool:
        """Whether there is one."""
        return os.path.lexists(self.file)

    def read(self) -> SiteKey:
        """The key pair.

        Raises:
            NotFoundError: there is none.
            ConfigurationError: it is not this user's alone, or it is damaged.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            # without O_NONBLOCK, opening a named pipe would wait for ever for its other end
            descriptor = os.open(self.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotFoundError("This site has no key yet.", hint="Make one: medperf site key") from None
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise self._unusable("it is not a file of this user")
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise self._unusable("others may read it, so it may be known to them")
            text = os.read(descriptor, _PEM_LIMIT)
        finally:
            os.close(descriptor)
        try:
            key = load_pem_private_key(text, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise self._unusable("it is damaged") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise self._unusable("it is no Ed25519 key")
        return SiteKey(key.public_key().public_bytes_raw(), key)

    def make(self) -> SiteKey:
        """Make a key pair unless there is one; returns the one that is there then."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        try:
            self.file.parent.mkdir(mode=0o700, exist_ok=True)
            self.file.parent.chmod(0o700)  # who can write to the folder could put another key there
        except OSError as error:
            raise self._unusable(f"its folder: {error.strerror}") from error
        with locked(self._home.locks / "site-key.lock", "the key of this site"):
            if not self.exists():
                made = Ed25519PrivateKey.generate()
                write_atomically(
                    self.file, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600
                )
        return self.read()

    def _unusable(self, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"The key {self.file} cannot be used: {why}.",
            hint="Mend that; or move it away and make a new one (medperf site key), whose fingerprint the sites that "
            "load your bundles then have to trust.",
        )

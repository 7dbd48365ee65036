"""Addresses of what is in buckets: ``s3://bucket/key`` and ``gs://bucket/key``.

As with the clouds' own tools, the key is everything behind the bucket, as it stands: nothing in it is decoded. One
version of it is named by ``?versionId=...`` (S3) or ``#generation`` (Google).
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

import attrs

from medperf_core.errors import ConfigurationError, TransferError
from medperf_storage.sending import server_of

MAX_KEY_BYTES = 1024
"""Both clouds' limit, in UTF-8."""

_S3_BUCKET = re.compile(r"(?!xn--)[a-z0-9](?:[a-z0-9-]|\.(?!\.)){1,61}[a-z0-9]")
_GS_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9_-]|\.(?!\.)){1,220}[a-z0-9]")
_IP = re.compile(r"[0-9]+(\.[0-9]+){3}")
_S3_VERSION = re.compile(r"(?P<key>[^?#]*)(?:\?versionId=(?P<version>[A-Za-z0-9._-]{1,200}))?")
_GS_VERSION = re.compile(r"(?P<key>[^?#]*)(?:#(?P<version>[0-9]{1,20}))?")
_FORMS = {
    "s3": (_S3_BUCKET, _S3_VERSION, "s3://bucket/key or s3://bucket/key?versionId=..."),
    "gs": (_GS_BUCKET, _GS_VERSION, "gs://bucket/key or gs://bucket/key#generation"),
}


@attrs.frozen
class ObjectUrl:
    """One object of a bucket.

    Attributes:
        bucket: a name that may stand in a host name.
        key: its name in the bucket, not quoted: no empty part, no ``.`` or ``..`` between its slashes, nothing that
            cannot be printed, no ``?`` and no ``#``.
        version: the version ID or generation that the address names; "" for what is there now.
    """

    scheme: str
    bucket: str
    key: str
    version: str = ""

    @property
    def quoted_key(self) -> str:
        """The key as it stands in the path of a request; slashes are kept."""
        return quote(self.key, safe="/-._~")

    def __str__(self) -> str:
        version = f"{'?versionId=' if self.scheme == 's3' else '#'}{self.version}" if self.version else ""
        return f"{self.scheme}://{self.bucket}/{self.key}{version}"


def parse(url: str, redacted: str) -> ObjectUrl:
    """Read an address and check every part of it.

    Args:
        redacted: the address as it may be shown.

    Raises:
        TransferError: it is not an address of an object.
    """
    scheme, slashes, rest = url.partition("://")
    scheme = scheme.partition(":")[0].lower()
    bucket_form, key_form, form = _FORMS[scheme]
    bucket, _, key = rest.partition("/")
    found = key_form.fullmatch(key)
    wrong = ""
    if not slashes:
        wrong = f"there must be two slashes behind {scheme}:"
    elif "@" in bucket or ":" in bucket:
        wrong = "where the bucket's name belongs, there is a login or a server (credentials: medperf auth store)"
    elif not bucket_form.fullmatch(bucket) or _IP.fullmatch(bucket):
        wrong = "its bucket is not a name that a bucket can have"
        if bucket_form.fullmatch(bucket.lower()):
            wrong += ": it has capital letters"
    elif found is None:
        wrong = "there is something behind its key that is not a version"
    else:
        wrong = _wrong_key(found["key"])
    if wrong or found is None:
        raise TransferError(f"{redacted[:300]} cannot be used: {wrong}.", hint=f"Write {form}.")
    return ObjectUrl(scheme, bucket, found["key"], found["version"] or "")


def _wrong_key(key: str) -> str:
    """What is wrong with a key, as the end of a sentence; "" if nothing is."""
    if not key:
        return "it has no key"
    if any(part in ("", ".", "..") for part in key.split("/")):
        return "its key has an empty part, . or .. in it"
    if not key.isprintable():  # control characters, half surrogate pairs
        return "its key has characters in it that cannot be printed"
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"its key is longer than {MAX_KEY_BYTES} bytes"
    return ""


def check_endpoint(address: str, place: str) -> str:
    """The address of a server that this site configured, as connections to it are made (its host is part of what is
    signed): in small letters, without a port that goes without saying, and without a slash at its end.

    Raises:
        ConfigurationError: it is not one; ``place`` says where it was set.
    """
    try:
        parts = urlsplit(address)
        server = server_of(address) if address.isprintable() and not set(address) & set("?#@\\") else None
    except ValueError:
        server = None
    if server is None:
        raise ConfigurationError(
            f"The endpoint that {place} gives is not the address of a server.",
            hint="Write https://host or https://host:port, without user name, password or query.",
        )
    return f"{server.base}{parts.path.rstrip('/')}"

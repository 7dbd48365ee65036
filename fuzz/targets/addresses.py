"""Addresses of files and references of images."""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medperf_core.builtin._manifests import Reading
from medperf_core.builtin.file import FileStorage, local_path
from medperf_core.entities.image import ImageIdentity
from medperf_core.errors import MedperfError
from medperf_core.plugin import BackendContext, FetchRequest, Manifest
from medperf_core.plugin.network import is_local
from medperf_core.site.fetch import Origin, _address, _redacted
from medperf_docker.registry import Reference
from medperf_storage.http import HttpStorage
from medperf_storage.settings import HttpSettings

from fuzz.target import Target

ADDRESSES = (
    "https://host.example/file?token=abc#x", "http://127.0.0.1:8000/f", "https://user:secret@host/f",
    "direct:https://h/f",
    "file:///etc/passwd", "FILE:/etc/passwd", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://0x7f.1/",
    "http://2130706433/",
    "http://localhost./f", "https://\u0661\u0662\u0667.0.0.1/", "https://host\\@127.0.0.1/", "https://127.0.0.1@host/",
    "ftp://host/f", "embedded:/x", "/plain/path", "~/x", "https://host:99999/", "https://[fe80::1%25eth0]/",
    "http://169.254.169.254/",
    "https://ho\u0336st/", "https://xn--a/", "https:/host", "https:///x", "https://a.localhost/", "http://127.1",
    "https://\uff11\uff12\uff17.0.0.1/",
)  # fmt: skip
WORDS = (
    "https://", "http://", "file:", "direct:", "127.0.0.1", "localhost", "[::1]", "@", ":", "#", "?", "\\", "%2e",
    "%00", "%40",
    "0x7f", "0177.1", "::ffff:", "64:ff9b::", "169.254.169.254", "\u3002", "\u2460", "\uff0f", "xn--", ".", "..",
    "\u00ad",
)  # fmt: skip


def _seeds() -> Iterable[bytes]:
    for number, address in enumerate(ADDRESSES):
        yield bytes([number]) + address.encode()


def run_address(data: bytes, folder: Path) -> None:
    origin = tuple(Origin)[data[0] % len(Origin)] if data else Origin.REMOTE
    text = data[1:].decode("utf-8", "surrogateescape")
    _redacted(text)
    address = _address(text, origin)
    scheme = address.partition(":")[0]
    assert re.fullmatch(r"[a-z][a-z0-9+.-]+", scheme)
    shown = _redacted(address)
    authority = re.match("//[^/]*@", shown.partition(":")[2])
    assert authority is None, "a login is shown"
    if scheme == "file":
        assert origin.allow_local, "a file was reached from elsewhere"
        FileStorage().redact(address)
        path = local_path(address)
        assert path.is_absolute() and "\0" not in str(path)


_looked_up: list[Any] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        _looked_up.append(arguments[0])


class _Sink:
    """Takes nothing: nothing is ever fetched here."""

    written = 0

    def expect(self, size: int | None, version: str = "") -> None:
        raise AssertionError("something came")

    def write(self, data: bytes) -> None:
        raise AssertionError("something came")

    def restart(self) -> None:
        """Nothing to forget."""


def run_http(data: bytes, folder: Path) -> None:
    """The whole way to the first look-up of a name, from an address that a remote server gave."""
    if not getattr(_watch, "installed", False):
        sys.addaudithook(_watch)
        _watch.installed = True  # type: ignore[attr-defined]
    text = data.decode("utf-8", "surrogateescape")
    address = _address(text, Origin.REMOTE)
    if address.partition(":")[0] not in ("http", "https"):
        return
    storage = HttpStorage(HttpSettings(attempts=1, pause=0.0), BackendContext(cache_dir=folder, temp_dir=folder))
    shown = storage.redact(address)
    assert not re.match("//[^/]*@", shown.partition(":")[2]) and "?" not in shown, "a secret is shown"
    _looked_up.clear()
    try:
        storage.fetch(FetchRequest(address, False, 1 << 20), _Sink())
    except MedperfError as error:
        login = re.match(r"https?://[^/?#:@]*:([^/?#@]{9,})@([^@]*)$", address)
        assert not login or login[1] in login[2] or login[1] not in str(error), "a password is shown"
    finally:
        for host in _looked_up:
            name = host.decode("utf-8", "replace") if isinstance(host, bytes) else str(host)
            assert not is_local(name), f"{name!r} is this machine"
            assert address.startswith("https:"), "plain http to another machine"
            try:
                found = ipaddress.ip_address(socket.inet_ntoa(socket.inet_aton(name)))
            except (OSError, ValueError):
                continue
            assert not (found.is_loopback or found.is_link_local or found.is_unspecified), f"{name!r} is here"


def run_reference(data: bytes, folder: Path) -> None:
    text = data.decode("utf-8", "replace")
    reading = Reading(Manifest({}, None, "m"))
    source = reading.reference(text, "image")
    try:
        reference = Reference.parse(text)
    except MedperfError:
        assert source is None, "the manifest's reader takes what the engine's refuses"
        reference = None
    if reference is not None:
        again = Reference.parse(reference.local)
        assert again.name == reference.name and again.digest == reference.digest
        assert not reference.name.startswith("-") and " " not in reference.local
    identity = ImageIdentity.parse(text)
    assert ImageIdentity.parse(str(identity)) == identity


def _reference_seeds() -> Iterable[bytes]:
    digest = "sha256:" + "0" * 64
    for text in (
        "name", "a/b:1", f"host:5000/a/b:tag@{digest}", f"a@{digest}", f"config:{digest}", f"source:{digest}",
        "[::1]:5/a",
        "A/b", "a__b", "a..b", "-a", "a:-b", "a" * 600, "host.example/a-b_c.d:T_1",
    ):  # fmt: skip
        yield text.encode()


TARGETS = (
    Target("address", run_address, _seeds, WORDS, 512),
    Target("http-address", run_http, lambda: [seed[1:] for seed in _seeds()], WORDS, 512, network=True),
    Target("image-reference", run_reference, _reference_seeds, ("sha256:", "@", ":", "/", "config:", "0" * 64), 700),
)

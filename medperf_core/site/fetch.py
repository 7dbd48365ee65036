"""Brings files from anywhere into the cache: fetched, counted, hashed and checked in one pass."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from threading import Lock
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

import attrs

from medperf_core.entities.checks import SHA256_HEX
from medperf_core.errors import InvalidEntityError, TransferError, VerificationError
from medperf_core.plugin.context import BackendContext
from medperf_core.plugin.events import Notice, StepFinished, StepStarted
from medperf_core.plugin.storage import FetchRequest, Storage, StoragePromise
from medperf_core.site.cache import Cache
from medperf_core.site.partials import Partial
from medperf_core.site.several import several
from medperf_core.site.sink import CacheSink, writing
from medperf_core.site.whole import received

MAX_BYTES = 1 << 40
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_HTML = re.compile(rb"\s*(<!--.{0,200}?-->\s*)?<(!doctype html|html)\b", re.IGNORECASE | re.DOTALL)


class Origin(StrEnum):
    """Where an address came from, which decides what it may reach."""

    TYPED = "typed here"
    EMBEDDED = "from an embedded server"
    REMOTE = "from a server"
    MANIFEST = "from a manifest"

    @property
    def allow_local(self) -> bool:
        """Whether it may name files and loopback addresses of this machine."""
        return self in (Origin.TYPED, Origin.EMBEDDED)


@attrs.frozen
class Fetched:
    """A file in the cache.

    Attributes:
        path: not to be changed, moved or removed.
        sha256: hexadecimal; was computed here.
        size: bytes.
        url: the address that was followed, ``file:`` for a path.
        url_redacted: where it came from, without secrets, for messages and records.
        reused: whether it was in the cache already.
    """

    path: Path
    sha256: str
    size: int
    url: str
    url_redacted: str
    reused: bool = False


@attrs.frozen
class Wanted:
    """A file to fetch; see ``Fetcher.fetch``."""

    url: str
    sha256: str | None = None


class Fetcher:
    """Fetches files for one site.

    Args:
        storages: gives the store of a URL scheme; its error lists the installed ones.
        max_bytes: a larger file is refused.
    """

    def __init__(
        self, cache: Cache, storages: Callable[[str], Storage], context: BackendContext, max_bytes: int = MAX_BYTES
    ) -> None:
        self._cache = cache
        self._storages = storages
        self._context = context
        self._max_bytes = max_bytes

    def fetch(self, url: str, *, origin: Origin, sha256: str | None = None) -> Fetched:
        """The file at an address, checked.

        Args:
            url: with a scheme; ``direct:`` before it is accepted. A path of this machine if it was typed here.
            origin: where the address came from.
            sha256: hexadecimal; if the cache has it, no connection is made. None accepts what comes and returns its
                hash, for a file that is being registered.

        Raises:
            TransferError: it cannot be fetched, is too large, there is no room for it, or the address may not be
                followed from where it came.
            VerificationError: what came is not the expected file; nothing of it was kept.
            OfflineError: a connection would be needed while working offline.
        """
        expected = sha256.lower() if sha256 else None
        if expected and not SHA256_HEX.fullmatch(expected):
            raise InvalidEntityError(f"{sha256!r} is not a SHA-256.", hint="It has 64 digits 0-9 and a-f.")
        cached = self._cache.file(expected) if expected else None
        # An address that is not followed may name what it likes: such as a file of the machine that made a bundle.
        address = _address(url, Origin.TYPED if cached else origin)
        shown = _redacted(address)
        if expected and cached:
            return Fetched(cached, expected, cached.stat().st_size, address, shown, reused=True)
        scheme = address.partition(":")[0]
        store = self._storages(scheme)
        shown = store.redact(address)
        what = f"Fetching {shown}"
        self._context.cancel.raise_if_cancelled()
        self._context.emit(StepStarted(what))
        fetched = self._fetch(store, FetchRequest(address, origin.allow_local, self._max_bytes), shown, expected)
        self._context.emit(StepFinished(what))
        return fetched

    def fetch_all(self, wanted: Sequence[Wanted], *, origin: Origin) -> list[Fetched]:
        """Fetch several files beside each other; in the order in which they are wanted.

        Raises:
            MedperfError: as ``fetch`` does for the first one that fails; the others are ended.
        """
        self._cache.tidy()
        context = attrs.evolve(self._context, cancel=self._context.cancel.child())
        fetcher = Fetcher(self._cache, _one_each(self._storages), context, self._max_bytes)
        once = list(dict.fromkeys(wanted))
        found = several(
            (partial(fetcher.fetch, each.url, origin=origin, sha256=each.sha256) for each in once), context.cancel
        )
        by_wanted = dict(zip(once, found, strict=True))
        return [by_wanted[each] for each in wanted]

    def _fetch(self, store: Storage, request: FetchRequest, shown: str, expected: str | None) -> Fetched:
        self._cache.tidy()
        # Without an expected hash, nobody would notice if what is kept did not fit what comes.
        if expected and StoragePromise.RESUME in store.promises:
            with self._cache.partials.taken(shown, expected) as partial:
                if partial is not None:
                    return self._fetch_to(partial.path, partial, store, request, shown, expected)
        temporary = self._cache.temporary()
        try:
            return self._fetch_to(temporary, None, store, request, shown, expected)
        finally:
            temporary.unlink(missing_ok=True)

    def _fetch_to(
        self,
        path: Path,
        partial: Partial | None,
        store: Storage,
        request: FetchRequest,
        shown: str,
        expected: str | None,
    ) -> Fetched:
        def receive(whole: bool) -> tuple[CacheSink, bool]:
            if whole:
                _remove(path, partial)
            return self._receive(path, partial, store, attrs.evolve(request, whole=whole), shown, expected)

        sink = received(receive, lambda came: expected in (None, came.sha256), shown, self._context.emit)
        if expected not in (None, sink.sha256):
            _remove(path, partial)
            raise _mismatch(shown, str(expected), sink)
        with writing(shown):
            added = self._cache.add(sink.sha256, path)
            if partial is not None and sink.noted:
                partial.forget()
        return Fetched(added, sink.sha256, sink.written, request.url, shown)

    def _receive(
        self,
        path: Path,
        partial: Partial | None,
        store: Storage,
        request: FetchRequest,
        shown: str,
        expected: str | None,
    ) -> tuple[CacheSink, bool]:
        """All bytes into ``path``; also whether they came in several parts."""
        with CacheSink(path, shown, request.max_bytes, self._context, partial, expected or "") as sink:
            try:
                version = sink.take_kept()
                if version:
                    self._context.emit(Notice(f"{shown}: {sink.written} bytes are here from an earlier fetch."))
                info = store.fetch(attrs.evolve(request, start=sink.written, version=version), sink)
                sink.finish(info)
            except BaseException:
                if sink.keep():
                    self._context.emit(
                        Notice(f"{shown}: {sink.written} bytes are kept for a week; the next fetch goes on from there.")
                    )
                raise
        return sink, sink.resumed or info.joined


def _one_each(storages: Callable[[str], Storage]) -> Callable[[str], Storage]:
    """The same store for all files of a scheme, so that its connections are used again."""
    made: dict[str, Storage] = {}
    lock = Lock()

    def storage(scheme: str) -> Storage:
        with lock:
            if scheme not in made:
                made[scheme] = storages(scheme)
            return made[scheme]

    return storage


def _remove(path: Path, partial: Partial | None) -> None:
    if partial is not None:
        partial.discard()
    else:
        path.unlink(missing_ok=True)


def _mismatch(shown: str, expected: str, sink: CacheSink) -> VerificationError:
    if _HTML.match(sink.head):
        hint = "What came is a web page, perhaps one to log in: the address may no longer lead to the file itself."
    elif not sink.written:
        hint = "What came is empty."
    else:
        hint = "It was changed since it was registered, or something on the way changed it; ask its owner."
    return VerificationError(
        f"{shown} is not the expected file and was not kept: expected SHA-256 {expected}, found "
        f"{sink.sha256} ({sink.written} bytes).",
        hint=hint,
    )


def _address(url: str, origin: Origin) -> str:
    """The address that a store is given.

    Raises:
        TransferError: it is not an address, or may not be followed from where it came.
    """
    address = url.strip()
    if address[:7].lower() == "direct:":
        address = address[7:]
    if not _SCHEME.match(address):
        if origin is not Origin.TYPED or not address or "\0" in address:
            raise TransferError(
                f"{address[:200]!r} {origin} is not an address of a file.",
                hint="It needs a scheme, as in https://host/file.",
            )
        try:
            return Path(address).expanduser().absolute().as_uri()
        except RuntimeError:
            raise TransferError(
                f"{address[:200]!r} begins with the home folder of nobody here.", hint="Write the whole path."
            ) from None
    if any(ord(char) < 33 or ord(char) == 127 for char in address) or "\\" in address:
        raise TransferError(
            f"The address {_redacted(address)!r} has a blank, a backslash or a control character.",
            hint=blank_hint(address),
        )
    scheme, _, rest = address.partition(":")
    if scheme.lower() == "file" and not origin.allow_local:
        raise TransferError(
            f"{_redacted(address)} came {origin} and names a file of this machine; it was not read.",
            hint="Only an address that is typed here may do that; ask for an https address.",
        )
    return f"{scheme.lower()}:{rest}"


def local_file(url: str) -> Path | None:
    """The file of this machine that an address of ``Fetcher.fetch`` leads to; None for others.

    Raises:
        TransferError: it is no address.
    """
    address = _address(url, Origin.TYPED)
    if not address.startswith("file:"):
        return None
    try:
        path = unquote_to_bytes(urlsplit(address).path)
    except ValueError:  # nothing is fetched from there
        return None
    return None if b"\0" in path else Path(os.fsdecode(path))


def blank_hint(address: str) -> str:
    """What to do about a blank in an address or in the name of a file that is hosted there."""
    if address[:3].lower() in ("s3:", "gs:"):
        return "In s3: and gs: addresses %20 stands for itself, so choose names without blanks."
    return "Write %20 for a blank."


def _redacted(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return f"{address.partition(':')[0]}:..."
    path = parts.path.rpartition("@")[2] if parts.path.startswith("//") else parts.path
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))

"""The audit log: what left this site, and what came of it; append-only, each line chained to the one before.

``log.jsonl`` holds one entry a line as canonical JSON; ``prev`` is the SHA-256 of the line before without its line end
(64 zeros for the first). ``head.json`` holds the number of lines and the SHA-256 of the last one, so that a cut tail
shows. Both go into every submission, so that a rewritten log and head show too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import attrs

from medperf_core.entities.codec import from_data, to_json
from medperf_core.errors import InvalidEntityError, VerificationError
from medperf_core.site.atomic import sync_folder, write_atomically
from medperf_core.site.home import locked

ZERO = "0" * 64


class Event(StrEnum):
    """What an entry tells."""

    SENDING = "sending"
    """These bytes were approved and are about to be sent; written before the first of them leaves."""
    DENIED = "denied"
    """The person or a policy said no; nothing was sent."""
    ACKNOWLEDGED = "acknowledged"
    """The server took it."""
    REFUSED = "refused"
    """The server answered with no."""
    FAILED = "failed"
    """No answer came; the server may or may not have it."""


@attrs.frozen(kw_only=True)
class AuditEntry:
    """One line.

    Attributes:
        n: its number, from 1; given by the log.
        time: UTC, ISO 8601; given by the log.
        event: what it tells.
        action, target: of the submission, such as ``create model`` and ``model my-model``.
        server: address of the server.
        user: who was logged in there.
        sha256, size: of the exact bytes, in hexadecimal digits and bytes.
        approved_by: who said yes or no: ``person``, ``--yes``, ``program``, ``policy``, ...
        of: number of the ``sending`` entry that this one tells the outcome of; None for others.
        note: a reason, or what the server made of it.
        prev: SHA-256 of the line before; given by the log.
    """

    n: int = 0
    time: str = ""
    event: Event = attrs.field(converter=Event)
    action: str
    target: str
    server: str
    user: str
    sha256: str
    size: int
    approved_by: str = ""
    of: int | None = None
    note: str = ""
    prev: str = ZERO


def _check_count(instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value < 0:
        raise InvalidEntityError("count is less than 0.")


def _check_hash(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise InvalidEntityError("head is not a SHA-256.")


@attrs.frozen
class AuditHead:
    """Where the log ends.

    Attributes:
        count: number of entries.
        head: SHA-256 of the last one; 64 zeros if there is none.
    """

    count: int = attrs.field(default=0, validator=_check_count)
    head: str = attrs.field(default=ZERO, validator=_check_hash)


@attrs.frozen
class _KeptHead(AuditHead):
    """As it is in ``head.json``.

    Attributes:
        coming: number of entries that there will be once all are written that are being written; 0 if none are.
    """

    coming: int = attrs.field(default=0, validator=_check_count)


@attrs.frozen
class _Seen:
    """What was checked before, so that a log of many entries is not read line by line each time.

    Attributes:
        size: bytes from the start of the log.
        sha256: of these bytes.
    """

    size: int = 0
    sha256: bytes = hashlib.sha256(b"").digest()
    lines: tuple[bytes, ...] = ()
    entries: tuple[AuditEntry, ...] = ()


class AuditLog:
    """The log in a folder of its own. Safe to use by several processes at a time.

    Every use checks the whole chain; a log that does not hold together takes no more entries, so that nothing is
    sent that could not be accounted for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "log.jsonl"
        self._head = folder / "head.json"
        self._seen = _Seen()

    def append(self, entry: AuditEntry) -> AuditEntry:
        """Write an entry to disk and return it with number, time and link.

        Raises:
            VerificationError: the log was changed.
        """
        return self.append_all([entry])[0]

    def append_all(self, entries: Sequence[AuditEntry]) -> list[AuditEntry]:
        """Write several entries to disk at once; see ``append``. A kill meanwhile may leave only the first of them."""
        with self._locked():
            lines, _ = self._checked()
            head = AuditHead(len(lines), _hash(lines[-1]) if lines else ZERO)
            if len(entries) > 1:
                self._write_head(_KeptHead(head.count, head.head, coming=head.count + len(entries)))
            time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            added, written = [], []
            for entry in entries:
                added.append(attrs.evolve(entry, n=head.count + 1, time=time, prev=head.head))
                written.append(to_json(added[-1]))
                head = AuditHead(head.count + 1, _hash(written[-1]))
            self._write(sum(len(old) + 1 for old in lines), b"".join(line + b"\n" for line in written))
            self._write_head(_KeptHead(head.count, head.head))
        return added

    def entries(self) -> tuple[AuditEntry, ...]:
        """All entries, oldest first.

        Raises:
            VerificationError: the log was changed.
        """
        with self._locked():
            return self._checked()[1]

    def head(self) -> AuditHead:
        """Where the log ends now."""
        return self.verify()

    def verify(self, *anchors: AuditHead) -> AuditHead:
        """Check that nothing was changed, removed, put in, reordered or cut off, and return where the log ends.

        Args:
            anchors: heads that were seen elsewhere, such as in submissions that the server has; the log must have
                had each of them.

        Raises:
            VerificationError: it does not hold together; says where.
        """
        with self._locked():
            lines, _ = self._checked()
        for anchor in anchors:
            if anchor.count > len(lines):
                raise self._broken(f"it ends after entry {len(lines)}, but entry {anchor.count} was seen elsewhere")
            if anchor.head != (_hash(lines[anchor.count - 1]) if anchor.count else ZERO):
                raise self._broken(f"entry {anchor.count} or one before it is not what was seen elsewhere")
        return AuditHead(len(lines), _hash(lines[-1]) if lines else ZERO)

    def _locked(self) -> AbstractContextManager[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return locked(self.folder / ".lock", "the audit log")

    def _checked(self) -> tuple[list[bytes], tuple[AuditEntry, ...]]:
        """Lines and entries, after the chain and the head were found to fit; brings a head that was left behind up
        to date."""
        try:
            text = self._log.read_bytes()
        except FileNotFoundError:
            text = b""
        seen = self._seen if _sha256(text[: self._seen.size]) == self._seen.sha256 else _Seen()
        lines, entries = list(seen.lines), list(seen.entries)
        prev = _hash(lines[-1]) if lines else ZERO
        *new, _ = text[seen.size :].split(b"\n")  # the last: what a kill left of a line, which was never sent
        for number, line in enumerate(new, len(lines) + 1):
            entry = self._entry(line, number)
            if entry.n != number:
                raise self._broken(f"line {number} is entry {entry.n}: entries were removed, put in or reordered")
            if entry.prev != prev:
                raise self._broken(f"entry {number} does not follow the entry before it: one of them was changed")
            prev = _hash(line)
            lines.append(line)
            entries.append(entry)
        kept = self._read_head()
        if kept.count > len(lines):
            raise self._broken(f"it ends after entry {len(lines)}, but {kept.count} were written: its end was cut off")
        known = _hash(lines[kept.count - 1]) if kept.count else ZERO
        if kept.head != known or len(lines) > max(kept.count + 1, kept.coming):
            raise self._broken(f"its last entries were changed or put in (its head file knows {kept.count} entries)")
        if kept.count < len(lines):  # killed between lines and head
            self._write_head(_KeptHead(len(lines), prev))
        size = sum(len(line) + 1 for line in lines)
        self._seen = _Seen(size, _sha256(text[:size]), tuple(lines), tuple(entries))
        return lines, tuple(entries)

    def _entry(self, line: bytes, number: int) -> AuditEntry:
        try:
            data = json.loads(line)
            entry = from_data(data, AuditEntry)
            if to_json(data) != line:
                raise ValueError
        except (ValueError, RecursionError, InvalidEntityError):
            raise self._broken(f"line {number} is not an entry as this program writes it: it was changed") from None
        return entry

    def _read_head(self) -> _KeptHead:
        try:
            return from_data(json.loads(self._head.read_bytes()), _KeptHead)
        except FileNotFoundError:
            return _KeptHead()
        except (ValueError, RecursionError, InvalidEntityError):
            raise self._broken("its head file is damaged") from None

    def _write(self, at: int, lines: bytes) -> None:
        new = not self._log.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(self._log, flags, 0o600), "r+b") as stream:
            stream.truncate(at)
            stream.seek(at)
            stream.write(lines)
            stream.flush()
            os.fsync(stream.fileno())
        if new:
            sync_folder(self.folder)

    def _write_head(self, head: _KeptHead) -> None:
        write_atomically(self._head, to_json(head), mode=0o600)

    def _broken(self, reason: str) -> VerificationError:
        return VerificationError(
            f"The audit log {self._log} does not hold together: {reason}.",
            hint="Nothing is sent while this is so. Keep the folder for whoever looks into it; once it is moved away, "
            "a new log begins.",
        )


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()

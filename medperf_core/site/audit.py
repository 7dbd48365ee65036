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


class AuditLog:
    """The log in a folder of its own. Safe to use by several processes at a time.

    Every use checks the whole chain; a log that does not hold together takes no more entries, so that nothing is
    sent that could not be accounted for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "log.jsonl"
        self._head = folder / "head.json"

    def append(self, entry: AuditEntry) -> AuditEntry:
        """Write an entry to disk and return it with number, time and link.

        Raises:
            VerificationError: the log was changed.
        """
        with self._locked():
            lines, _ = self._checked()
            time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            entry = attrs.evolve(entry, n=len(lines) + 1, time=time, prev=_hash(lines[-1]) if lines else ZERO)
            line = to_json(entry)
            self._write(sum(len(old) + 1 for old in lines), line + b"\n")
            self._write_head(AuditHead(entry.n, _hash(line)))
        return entry

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
        lines = text.split(b"\n")
        lines.pop()  # what a kill left of a line that was being written; its submission was never sent
        entries, prev = [], ZERO
        for number, line in enumerate(lines, 1):
            entry = self._entry(line, number)
            if entry.n != number:
                raise self._broken(f"line {number} is entry {entry.n}: entries were removed, put in or reordered")
            if entry.prev != prev:
                raise self._broken(f"entry {number} does not follow the entry before it: one of them was changed")
            prev = _hash(line)
            entries.append(entry)
        kept = self._read_head()
        if kept.count > len(lines):
            raise self._broken(f"it ends after entry {len(lines)}, but {kept.count} were written: its end was cut off")
        hashes = {len(lines): prev, len(lines) - 1: entries[-1].prev if entries else None}
        if hashes.get(kept.count) != kept.head:
            raise self._broken(f"its last entries were changed or put in (its head file knows {kept.count} entries)")
        if kept.count < len(lines):  # killed between line and head
            self._write_head(AuditHead(len(lines), prev))
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

    def _read_head(self) -> AuditHead:
        try:
            return from_data(json.loads(self._head.read_bytes()), AuditHead)
        except FileNotFoundError:
            return AuditHead()
        except (ValueError, RecursionError, InvalidEntityError):
            raise self._broken("its head file is damaged") from None

    def _write(self, at: int, line: bytes) -> None:
        new = not self._log.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(self._log, flags, 0o600), "r+b") as stream:
            stream.truncate(at)
            stream.seek(at)
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        if new:
            sync_folder(self.folder)

    def _write_head(self, head: AuditHead) -> None:
        write_atomically(self._head, to_json(head), mode=0o600)

    def _broken(self, reason: str) -> VerificationError:
        return VerificationError(
            f"The audit log {self._log} does not hold together: {reason}.",
            hint="Nothing is sent while this is so. Keep the folder for whoever looks into it; once it is moved away, "
            "a new log begins.",
        )


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()

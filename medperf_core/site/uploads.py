"""Uploading files: through the same door as every submission, and each file in the audit log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any

import attrs

from medperf_core.errors import TransferError
from medperf_core.plugin.context import BackendContext
from medperf_core.plugin.events import Progress, StepFinished, StepStarted
from medperf_core.plugin.storage import PutRequest, Storage, Stored
from medperf_core.site.audit import AuditEntry, AuditLog, Event
from medperf_core.site.door import Door, Leaving
from medperf_core.site.several import AT_ONCE, several
from medperf_core.site.sizes import readable

ACTION = "upload"
SMALL = 2 << 20
"""Bytes up to which files are uploaded beside each other. Stores hold such a file in memory, perhaps more than once;
of a larger one they send several parts at once by themselves."""

OUTCOME_SECONDS = 1.0


@attrs.frozen
class Outgoing:
    """A file to upload, and what a person knows it by.

    Attributes:
        name: of the file.
        made_from: what its content was made from: a path of this machine, or an image.
        request: what the store is given.
        holds: what is inside of it; plain data.
    """

    name: str
    made_from: str
    request: PutRequest
    holds: Mapping[str, Any] = attrs.field(factory=dict)


class Uploads:
    """Uploads for one site.

    Args:
        door: is asked once for all files that go to one place.
        audit: of the site.
        context: of the site; for its events and its cancel token.
    """

    def __init__(self, door: Door, audit: AuditLog, context: BackendContext) -> None:
        self._door = door
        self._audit = audit
        self._context = context

    def upload(self, store: Storage, target: str, files: Sequence[Outgoing]) -> None:
        """Upload files after one question for all of them: small ones beside each other, then each large one.

        Args:
            store: where the addresses lead.
            target: the place that all of them go to, without secrets.
            files: at least one.

        Raises:
            DeniedError: the person or a policy said no; nothing was sent.
            TransferError: the first one that could not be sent. Those that were under way have ended; no other one was
                begun.
        """
        many = files[0].name if len(files) == 1 else f"{len(files)} files"
        size = sum(each.request.size for each in files)
        listed = [
            {
                "file": each.name,
                "from": each.made_from,
                "to": store.redact(each.request.url),
                "size": each.request.size,
                "sha256": each.request.sha256,
                **({"holds": dict(each.holds)} if each.holds else {}),
            }
            for each in files
        ]
        whole = Leaving(
            action=ACTION,
            target=f"{many}, {readable(size)}",
            to=target,
            user="",
            body=json.dumps(listed, indent=2, sort_keys=True).encode(),
            details={"files": listed},
        )
        approved_by = self._door.ask(whole)
        entries = [self._entry(store, target, each.request, approved_by) for each in files]
        sent = list(zip(files, self._audit.append_all(entries), strict=True))
        progress = _Progress(f"Uploading {many} to {target}", size, self._context)
        outcomes = _Outcomes(self._audit, self._door.reason)
        self._context.emit(StepStarted(progress.what))
        try:
            for small, at_once in ((True, AT_ONCE), (False, 1)):
                several(
                    (
                        partial(self._one, store, each.request, entry, progress, outcomes)
                        for each, entry in sent
                        if (each.request.size <= SMALL) is small
                    ),
                    progress.cancel,
                    at_once,
                )
        finally:
            outcomes.end([entry for _, entry in sent])
        self._context.emit(StepFinished(progress.what))

    def _entry(self, store: Storage, target: str, request: PutRequest, approved_by: str) -> AuditEntry:
        leaving = Leaving(action=ACTION, target=store.redact(request.url), to=target, user="", body=b"")
        return attrs.evolve(leaving.entry, sha256=request.sha256, size=request.size, approved_by=approved_by)

    def _one(
        self, store: Storage, request: PutRequest, entry: AuditEntry, progress: _Progress, outcomes: _Outcomes
    ) -> None:
        try:
            stored = store.put(request, progress.on_bytes)
            if stored.size != request.size:
                raise TransferError(f"{entry.target} has {stored.size} bytes after uploading {request.size}.")
        except BaseException as error:
            outcomes.failed(entry, error)
            raise
        outcomes.came(entry, stored)


class _Outcomes:
    """What came of each file, for the audit log; written now and then, because each writing waits for the disk.

    Args:
        reason: why something failed, without secrets.
    """

    def __init__(self, audit: AuditLog, reason: Callable[[BaseException], str]) -> None:
        self._audit = audit
        self._reason = reason
        self._lock = Lock()
        self._waiting: list[AuditEntry] = []
        self._noted: set[int] = set()
        self._written = time.monotonic()

    def came(self, entry: AuditEntry, stored: Stored) -> None:
        """It arrived."""
        self._note(entry, Event.ACKNOWLEDGED, stored.version[:200])

    def failed(self, entry: AuditEntry, error: BaseException) -> None:
        """Nobody knows whether it arrived."""
        self._note(entry, Event.FAILED, self._reason(error))

    def end(self, entries: Sequence[AuditEntry]) -> None:
        """Write down all that is not yet, also of the files that were not begun."""
        for entry in entries:
            if entry.n not in self._noted:
                self._note(entry, Event.FAILED, "it was not begun")
        with self._lock:
            self._write()

    def _note(self, entry: AuditEntry, event: Event, note: str) -> None:
        outcome = attrs.evolve(entry, event=event, of=entry.n, note=note, approved_by="")
        with self._lock:
            self._noted.add(entry.n)
            self._waiting.append(outcome)
            if time.monotonic() - self._written > OUTCOME_SECONDS:
                self._write()

    def _write(self) -> None:
        self._audit.append_all(self._waiting)
        self._waiting = []
        self._written = time.monotonic()


class _Progress:
    """One count of bytes for all files.

    Attributes:
        what: the step, for events.
        cancel: of these files only, and cancelled with the site's.
    """

    def __init__(self, what: str, total: int, context: BackendContext) -> None:
        self.what = what
        self.cancel = context.cancel.child()
        self._total = total
        self._done = 0
        self._emit = context.emit
        self._lock = Lock()

    def on_bytes(self, count: int) -> None:
        """Tell that more bytes are about to leave; raises CancelledError if they must not."""
        self.cancel.raise_if_cancelled()
        with self._lock:  # also while telling, so that nobody hears of fewer bytes after more
            self._done += count
            self._emit(Progress(self.what, self._done, self._total))

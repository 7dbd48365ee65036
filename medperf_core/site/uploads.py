"""Uploading files: through the same door as every submission, and each file in the audit log."""

from __future__ import annotations

import json
from collections.abc import Sequence

import attrs

from medperf_core.errors import TransferError
from medperf_core.plugin.context import BackendContext
from medperf_core.plugin.events import Progress, StepFinished, StepStarted
from medperf_core.plugin.storage import PutRequest, Storage
from medperf_core.site.audit import AuditLog, Event
from medperf_core.site.door import Door, Leaving

ACTION = "upload"


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

    def upload(self, store: Storage, target: str, requests: Sequence[PutRequest]) -> None:
        """Upload files after one question for all of them.

        Args:
            store: where the addresses lead.
            target: the place that all of them go to, without secrets.
            requests: the files.

        Raises:
            DeniedError: the person or a policy said no; nothing was sent.
            TransferError: one could not be sent; those before it arrived.
        """
        listed = [
            {"to": store.redact(each.url), "size": each.size, "sha256": each.sha256, "from": str(each.path)}
            for each in requests
        ]
        body = json.dumps(listed, indent=2, sort_keys=True).encode()
        whole = Leaving(
            action=ACTION,
            target="1 file" if len(requests) == 1 else f"{len(requests)} files",
            to=target,
            user="",
            body=body,
            details={"files": listed},
        )
        approved_by = self._door.ask(whole)
        for request in requests:
            self._one(store, target, request, approved_by)

    def _one(
        self,
        store: Storage,
        target: str,
        request: PutRequest,
        approved_by: str,
    ) -> None:
        shown = store.redact(request.url)
        leaving = Leaving(action=ACTION, target=shown, to=target, user="", body=b"")
        entry = attrs.evolve(leaving.entry, sha256=request.sha256, size=request.size, approved_by=approved_by)
        number = self._audit.append(entry).n
        outcome = attrs.evolve(entry, of=number, approved_by="")
        what = f"uploading {shown}"
        done = 0

        def on_bytes(count: int) -> None:
            nonlocal done
            self._context.cancel.raise_if_cancelled()
            done += count
            self._context.emit(Progress(what, done, request.size))

        self._context.emit(StepStarted(what))
        try:
            stored = store.put(request, on_bytes)
            if stored.size != request.size:
                raise TransferError(f"{shown} has {stored.size} bytes after uploading {request.size}.")
        except BaseException as error:
            self._audit.append(attrs.evolve(outcome, event=Event.FAILED, note=self._door.reason(error)))
            raise
        self._audit.append(attrs.evolve(outcome, event=Event.ACKNOWLEDGED, note=stored.version[:200]))
        self._context.emit(StepFinished(what))

"""The outbox: submissions that were approved and that the server has not acknowledged."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from medperf_core.entities import Association
from medperf_core.entities.codec import from_data, to_data, to_json
from medperf_core.errors import ConfigurationError, InvalidEntityError, NotFoundError
from medperf_core.site.atomic import write_atomically
from medperf_core.site.home import Home, locked

STAMPS = ("client_uuid", "audit")
"""What the site adds to ``metadata``; not part of a submission's content."""


@attrs.frozen(kw_only=True)
class Pending:
    """One submission that may or may not have reached the server.

    Attributes:
        client_uuid: the UUID that it carries, or would carry if it had room for one.
        content_key: what ``content_key`` gave for it.
        action, target, route: of the submission.
        body: the exact bytes that were approved, as text.
        server: address of the server.
        user: who was logged in there.
        audit_entry: number of the audit entry of the last attempt.
        time: UTC, ISO 8601, of the last attempt.
    """

    client_uuid: str
    content_key: str
    action: str
    target: str
    route: str
    body: str
    server: str
    user: str
    audit_entry: int
    time: str = attrs.field(factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"))


def content_key(server: str, user: str, action: str, content: Any) -> str:
    """Names a submission by what it says: equal for equal content, whatever its UUID and audit stamp.

    Args:
        content: an entity, an association, or plain data. An association is known by who takes part and its
            status alone: its test report may differ from run to run.
    """
    data = to_data(content)
    if isinstance(content, Association):
        data = {key: value for key, value in data.items() if key != "metadata"}
    elif isinstance(data, Mapping) and isinstance(data.get("metadata"), Mapping):
        data = {**data, "metadata": {key: value for key, value in data["metadata"].items() if key not in STAMPS}}
    return hashlib.sha256(to_json([server, user, action, data])).hexdigest()


class Outbox:
    """The outbox of a home: one file for each submission."""

    def __init__(self, home: Home) -> None:
        self._folder = home.outbox_dir
        self._locks = home.locks

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold this content against other commands, from looking it up to the server's answer."""
        # Some keys share a lock: better than a lock file for each submission ever made.
        with locked(self._locks / f"outbox-{key[:2]}.lock", "the outbox to send the same"):
            yield

    def put(self, pending: Pending) -> None:
        """Keep a submission, in place of an earlier attempt with the same UUID."""
        write_atomically(self._file(pending.client_uuid), to_json(pending), mode=0o600)

    def remove(self, client_uuid: str) -> None:
        """Forget a submission, if it is there."""
        self._file(client_uuid).unlink(missing_ok=True)

    def list(self) -> tuple[Pending, ...]:
        """All submissions, oldest attempt first.

        Raises:
            ConfigurationError: a file is damaged; it could be the one that must not be sent twice.
        """
        found = [pending for file in self._folder.glob("[!.]*.json") if (pending := self._read(file)) is not None]
        return tuple(sorted(found, key=lambda pending: (pending.time, pending.client_uuid)))

    def get(self, client_uuid: str) -> Pending:
        """A submission by its UUID.

        Raises:
            NotFoundError: there is none; known ones are listed.
        """
        for pending in (known := self.list()):
            if pending.client_uuid == client_uuid:
                return pending
        names = ", ".join(pending.client_uuid for pending in known) or "none"
        raise NotFoundError(f"The outbox has no submission {client_uuid!r}.", hint=f"It has: {names}.")

    def same(self, key: str) -> Pending | None:
        """The submission with this content key; None if there is none."""
        return next((pending for pending in self.list() if pending.content_key == key), None)

    def _file(self, client_uuid: str) -> Path:
        return self._folder / f"{uuid.UUID(client_uuid)}.json"

    def _read(self, file: Path) -> Pending | None:
        try:
            pending = from_data(json.loads(file.read_bytes()), Pending)
            if file.name != f"{uuid.UUID(pending.client_uuid)}.json":
                raise ValueError
        except FileNotFoundError:
            return None  # acknowledged meanwhile, by another command
        except (OSError, ValueError, RecursionError, InvalidEntityError):
            raise ConfigurationError(
                f"The unsent submission {file} is damaged.",
                hint="Look at the server whether it arrived, then remove the file.",
            ) from None
        return pending

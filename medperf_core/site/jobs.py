"""Notes of jobs that were handed to an executor: written before anything is waited for, removed when the job ended.

A note has no settings and no secrets. Notes of ``local`` jobs whose program is gone are dropped, because such jobs end
with the program; an executor that outlives it finds its jobs again by the ids that are noted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medperf_core.plugin.processes import is_orphan, new_marker
from medperf_core.site.atomic import write_atomically
from medperf_core.site.home import Home

LOCAL = "local"


class JobNotes:
    """The notes of a home, for the jobs of one executor."""

    def __init__(self, home: Home, executor: str) -> None:
        self._folder = home.records_dir / "jobs"
        self._executor = executor

    @contextmanager
    def noted(self, job_id: str, what: str) -> Iterator[None]:
        """Keep a note of a job while it goes on."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._drop_dead()
        note = {"id": job_id, "executor": self._executor, "what": what, "owner": new_marker()}
        path = self._folder / f"{job_id}.json"
        write_atomically(path, json.dumps(note))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    def list(self) -> list[dict[str, str]]:
        """The notes that can be read: id, executor, what, owner."""
        return [note for path in sorted(self._folder.glob("[!.]*.json")) if (note := _read(path))]

    def _drop_dead(self) -> None:
        for note in self.list():
            if note.get("executor") == LOCAL and is_orphan(note.get("owner", "")):
                (self._folder / f"{note['id']}.json").unlink(missing_ok=True)


def _read(path: Path) -> dict[str, str] | None:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and note.get("id") == path.stem else None

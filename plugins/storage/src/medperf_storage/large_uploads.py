"""Uploads of large files, which go on where they were interrupted.

What was sent of an upload that is cancelled, refused or of a wrong file is removed from the server. One whose program
was killed, or whose server could not be reached any more, is noted on this machine, and the next upload of that file to
that address goes on with it; an upload of another file removes it.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from medperf_core.errors import MedperfError, TransferError
from medperf_core.plugin.storage import PutRequest, Stored
from medperf_storage.object_http import Passing, Refusal
from medperf_storage.objects import Remote, taken
from medperf_storage.retrying import GivenUpError
from medperf_storage.upload_notes import Begun, Note, noting
from medperf_storage.uploads import Sent, Source

T = TypeVar("T")
"""What a server has of an upload."""


class LargeUpload(abc.ABC, Generic[T]):
    """One upload of one file."""

    remote: Remote
    scheme: ClassVar[str]
    gone: ClassVar[frozenset[int]]
    """Answers to the removal of an upload of which the server has nothing any more."""

    def __init__(self, remote: Remote, request: PutRequest, source: Source, on_bytes: Callable[[int], None]) -> None:
        self.remote = remote
        self.request = request
        self.source = source
        self.sent = Sent(on_bytes)
        self.what = f"{remote.url} could not be uploaded"

    @abc.abstractmethod
    def there(self, begun: Begun) -> T | None:
        """What the server has of an upload of this file; None if it cannot be gone on with."""

    @abc.abstractmethod
    def begin(self) -> Begun:
        """Ask the server to begin."""

    @abc.abstractmethod
    def send(self, begun: Begun, note: Note, there: T | None) -> Stored:
        """Send what is not there yet, until the file is at its address.

        Args:
            there: None for an upload that has just been begun.
        """

    @abc.abstractmethod
    def remove(self, begun: Begun) -> None:
        """Ask the server to forget what it has of an upload; raises as ``Connections.answer`` does."""

    def run(self) -> Stored:
        """Begin or go on, and send all that is missing."""
        folder = Path(self.remote.connections.context.cache_dir, self.scheme, "uploads")
        with noting(folder, self.remote.address) as note:
            done = self._look(note)
            if done is not None:
                return done
            begun, there = self._earlier(note)
            if begun is None:
                begun = self.begin()
                note.begin(begun)
            try:
                stored = self.send(begun, note, there)
            except GivenUpError as error:
                if not note.kept:
                    self._remove(begun, note)
                    raise
                hint = f"{error.hint or ''} The same command goes on with what the server has of the file."
                raise TransferError(error.message, hint=hint.strip()) from None
            except BaseException:
                self._remove(begun, note)
                raise
            note.gone(begun)
            return stored

    def _look(self, note: Note) -> Stored | None:
        """What is there, if it is of an upload whose program was killed before it could say so.

        Raises:
            TransferError: something else is there.
        """
        found = self.remote.seen(self.what)
        if found is None:
            return None
        ours = found.is_of(self.request) and any(each.is_of(self.request) for each in note.begun)
        for each in note.begun:
            self._remove(each, note)
        if not ours:
            raise taken(self.remote.url)
        self.sent.reached(0, self.request.size)
        self.sent.tell()
        return found.stored

    def _earlier(self, note: Note) -> tuple[Begun | None, T | None]:
        """The last upload of this file that was begun and not ended, and what the server has of it."""
        chosen, there = None, None
        for begun in reversed(note.begun):
            found = self.there(begun) if chosen is None and begun.is_of(self.request) else None
            if found is None:
                self._remove(begun, note)
            else:
                chosen, there = begun, found
                note.again(begun)
        return chosen, there

    def _remove(self, begun: Begun, note: Note) -> None:
        """Remove what was sent. If that fails, it stays noted, and the next upload tries again."""
        with contextlib.suppress(Passing, MedperfError):
            try:
                self.remove(begun)
            except Refusal as refusal:
                if refusal.status not in self.gone:
                    return
            note.gone(begun)

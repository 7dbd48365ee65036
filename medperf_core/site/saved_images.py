"""Which image was saved to which file of the cache, so that none is saved twice.

``saved/KEY.json`` in the cache holds the SHA-256 and the kind of a file. The key is a hash of the platform and of the
image's identities.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from medperf_core.entities import ImageIdentity, SourceKind
from medperf_core.entities.checks import SHA256_HEX
from medperf_core.entities.codec import to_json
from medperf_core.site.atomic import write_atomically
from medperf_core.site.cache import Cache

SAVED = "saved"
"""Folder in the cache."""
_LIMIT = 4096


class SavedImages:
    """The notes of one cache.

    Args:
        folder: of the cache of a site.
    """

    def __init__(self, folder: Path, cache: Cache) -> None:
        self._folder, self._cache = folder / SAVED, cache

    def find(self, platform: str, identities: Iterable[ImageIdentity]) -> tuple[str, SourceKind] | None:
        """The SHA-256 and kind of the file of an image; None if it is not in the cache."""
        found = _read(self._note(platform, identities))
        return found if found is not None and self._cache.file(found[0]) is not None else None

    def add(self, platform: str, identities: Iterable[ImageIdentity], sha256: str, kind: SourceKind) -> None:
        """Note that an image was saved.

        Raises:
            OSError: it cannot be written.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_atomically(
            self._note(platform, identities), json.dumps({"sha256": sha256, "kind": kind.value}), mode=0o600
        )

    def _note(self, platform: str, identities: Iterable[ImageIdentity]) -> Path:
        key = hashlib.sha256(to_json([platform, sorted(map(str, identities))])).hexdigest()
        return self._folder / f"{key}.json"


def forget_stale(folder: Path, cache: Cache) -> None:
    """Remove the notes of files that are no longer in the cache."""
    notes = list((folder / SAVED).glob("*.json"))  # before the files: what is noted meanwhile is not taken for stale
    here = {entry.sha256 for entry in cache.entries()}
    for note in notes:
        found = _read(note)
        if found is None or found[0] not in here:
            note.unlink(missing_ok=True)


def _read(note: Path) -> tuple[str, SourceKind] | None:
    with suppress(OSError, ValueError, RecursionError, KeyError, TypeError):
        with note.open("rb") as stream:
            found = json.loads(stream.read(_LIMIT))
        if SHA256_HEX.fullmatch(found["sha256"]):
            return found["sha256"], SourceKind(found["kind"])
    return None

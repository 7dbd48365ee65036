"""Where a home's cache is: ``cache/`` in the home, or the folder that ``cache-place.json`` beside it names.

A cache outside carries a marker with the same id as the home's file. Without it - a disk that is not mounted, a folder
that was emptied - every use is an error, so that no new cache silently grows in its place.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs

from medperf_core.errors import ConfigurationError
from medperf_core.site.atomic import write_atomically

PLACE_FILE = "cache-place.json"
MARKER = "medperf-cache.json"
WORK = "work"
"""In a cache outside of the home: the work in hand, so that finished work is kept there by a mere rename."""
USUAL = "cache"
_LIMIT = 64 << 10
_ID = re.compile(r"[0-9a-f]{32}")


@attrs.frozen
class Place:
    """What the home says of its cache.

    Attributes:
        folder: absolute path.
        id: 32 hexadecimal digits, the same as in the marker there.
        old: where it was before, as long as that is not removed completely; None otherwise.
    """

    folder: Path
    id: str
    old: Path | None = None


def read_place(home: Path) -> Place | None:
    """What the home says; None if its cache is in its usual place.

    Raises:
        ConfigurationError: the file is damaged.
    """
    file = home / PLACE_FILE
    try:
        data = _read(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(file, error.strerror or str(error)) from error
    folder, old = data.get("folder"), data.get("old")
    known = isinstance(folder, str) and folder.startswith("/") and "\0" not in folder
    if not known or not _is_id(data.get("id")) or not (old is None or (isinstance(old, str) and old.startswith("/"))):
        raise _damaged(file, "it does not say where the cache is")
    return Place(Path(str(folder)), data["id"], Path(old) if old else None)


def write_place(home: Path, place: Place) -> None:
    """Record it, in one step."""
    old = None if place.old is None else str(place.old)
    write_atomically(home / PLACE_FILE, json.dumps({"folder": str(place.folder), "id": place.id, "old": old}), 0o600)


def cache_folder(home: Path) -> Path:
    """Where the cache of a home is.

    Raises:
        ConfigurationError: it is not there, or is another one.
    """
    place = read_place(home)
    if place is None:
        return home / USUAL
    if read_marker(place.folder) != (place.id, True):
        raise ConfigurationError(
            f"The cache of this site is in {place.folder}, and it is not there now.",
            hint="Mount its disk, then try again. If it is gone for good, begin a new one: "
            "medperf cache move --lost FOLDER",
        )
    return place.folder


def in_home(home: Path, folder: Path) -> bool:
    """Whether a cache is in the usual place of its home."""
    return folder == home / USUAL


def read_marker(folder: Path) -> tuple[str, bool] | None:
    """The id of the cache in a folder and whether it is whole; None if the folder is no cache that was moved."""
    try:
        data = _read(folder / MARKER)
    except OSError:
        return None
    return (data["id"], data.get("whole") is True) if _is_id(data.get("id")) else None


def write_marker(folder: Path, id: str, *, whole: bool) -> None:
    """Mark a folder as a cache."""
    write_atomically(folder / MARKER, json.dumps({"id": id, "whole": whole}), 0o600)


def _read(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        try:
            data = json.loads(stream.read(_LIMIT))
        except (ValueError, RecursionError):
            return {}
    return data if isinstance(data, dict) else {}


def _is_id(value: object) -> bool:
    return isinstance(value, str) and bool(_ID.fullmatch(value))


def _damaged(file: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{file} is damaged: {why}.",
        hint="Restore it from a backup, or remove it: then the cache is in the home folder again.",
    )

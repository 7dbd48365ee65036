"""Where a home's cache is: ``cache/`` in the home, or the folder that ``cache-place.json`` beside it names.

A cache outside carries a marker with the same id as the home's file. Without it - a disk that is not mounted, a folder
that was emptied - every use is an error, so that no new cache silently grows in its place. So is a link in the usual
place that leads nowhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from medperf_core.errors import ConfigurationError
from medperf_core.site.atomic import sync_folder, write_atomically

PLACE_FILE = "cache-place.json"
MARKER = "medperf-cache.json"
WORK = "work"
"""In a cache on another disk than the home: the work in hand, so that finished work is kept by a mere rename."""
USUAL = "cache"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
"""What a part of a cache may be called."""
_LIMIT = 64 << 10
_ID = re.compile(r"[0-9a-f]{32}")


@attrs.frozen
class Marker:
    """What a cache says of itself.

    Attributes:
        id: 32 hexadecimal digits, the same as in the file of its home.
        whole: whether it can be used; not while it is copied or removed.
        home: for which home it was put there; "" if that is not known.
        names: of its parts that were copied there.
    """

    id: str
    whole: bool
    home: str = ""
    names: tuple[str, ...] = ()


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
    folder, old = (str(home / USUAL) if data.get(name) == USUAL else data.get(name) for name in ("folder", "old"))
    known = isinstance(folder, str) and folder.startswith("/") and "\0" not in folder
    if not known or not _is_id(data.get("id")) or not (old is None or (isinstance(old, str) and old.startswith("/"))):
        raise _damaged(file, "it does not say where the cache is")
    return Place(Path(str(folder)), data["id"], Path(old) if old else None)


def write_place(home: Path, place: Place) -> None:
    """Record it, in one step; nothing needs to be said of a cache in the usual place."""
    if place.folder == home / USUAL and place.old is None:
        (home / PLACE_FILE).unlink(missing_ok=True)
        sync_folder(home)
        return

    def said(folder: Path) -> str:  # so that the home may be renamed
        return USUAL if folder == home / USUAL else str(folder)

    old = None if place.old is None else said(place.old)
    write_atomically(home / PLACE_FILE, json.dumps({"folder": said(place.folder), "id": place.id, "old": old}), 0o600)


def cache_folder(home: Path) -> Path:
    """Where the cache of a home is.

    Raises:
        ConfigurationError: it is not there, or is another one.
    """
    place = read_place(home)
    if place is None:
        usual = home / USUAL
        if usual.is_symlink() and not usual.is_dir():
            raise ConfigurationError(
                f"The cache of this site is where the link {usual} leads to, and it is not there now.",
                hint="Mount its disk, then try again. If it is gone for good, remove the link to begin a new cache.",
            )
        return usual
    marker = read_marker(place.folder)
    if marker is None or marker.id != place.id or not marker.whole:
        raise ConfigurationError(
            f"The cache of this site is in {place.folder}, and it is not there now.",
            hint="Mount its disk, then try again. If it is gone for good, begin a new one: "
            "medperf cache move --lost FOLDER",
        )
    return place.folder


def work_place(home: Path, folder: Path) -> Path | None:
    """Where the work in hand lies, on the disk of a cache; None for the usual place, ``temp/`` in the home."""
    with suppress(OSError):
        usual = folder == home / USUAL and not folder.is_symlink()
        if usual and folder.stat().st_dev == (home / "temp").stat().st_dev:
            return None
    return folder / WORK


def read_marker(folder: Path) -> Marker | None:
    """What the cache in a folder says of itself; None if the folder is no cache that was moved."""
    try:
        data = _read(folder / MARKER)
    except OSError:
        return None
    if not _is_id(data.get("id")):
        return None
    home, names = data.get("home"), data.get("names")
    listed = names if isinstance(names, list) else []
    return Marker(
        data["id"],
        data.get("whole") is True,
        home if isinstance(home, str) else "",
        tuple(name for name in listed if isinstance(name, str) and NAME.fullmatch(name)),
    )


def write_marker(folder: Path, id: str, *, whole: bool, home: Path | None = None, names: Sequence[str] = ()) -> None:
    """Mark a folder as a cache; see ``Marker``."""
    said = {"id": id, "whole": whole, "home": str(home or ""), "names": list(names)}
    write_atomically(folder / MARKER, json.dumps(said), 0o600)


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

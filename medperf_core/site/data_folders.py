"""Which folders of this machine hold patients' data, so that no command ever uploads one of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from medperf_core.errors import ConfigurationError, DeniedError
from medperf_core.site.atomic import write_atomically
from medperf_core.site.cache_place import USUAL, read_place
from medperf_core.site.data_search import LIST_FILE, DataSearch, Root
from medperf_core.site.file_identity import FileIdentity, identity_of
from medperf_core.site.home import Home, locked


class DataFolders:
    """The folders that were used as data here; they are remembered for good, with what they are on the disk.

    The home and the cache count too: kept steps are prepared data, and keys and records are nobody else's.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._file = home.records_dir / LIST_FILE

    def remember(self, paths: Iterable[Path]) -> None:
        """Note folders (or files) that a task was given as data or labels, or that it writes what it makes of them to.

        Raises:
            ConfigurationError: the list is damaged.
        """
        wanted = [os.path.realpath(path) for path in paths]
        if not wanted:
            return
        with locked(self._file.with_suffix(".lock"), "the list of data folders"):
            known = self._read()
            new = [Root(path, identity_of(path)) for path in dict.fromkeys(wanted)]
            new = [root for root in new if not any(_says(each, root) for each in known)]
            if new:
                listed = sorted((*known, *new), key=lambda root: root.path)
                text = json.dumps([_entry(root) for root in listed], indent=1, ensure_ascii=True)
                write_atomically(self._file, text + "\n", mode=0o600)

    def known(self) -> tuple[str, ...]:
        """Real paths of all that were used as data.

        Raises:
            ConfigurationError: the list is damaged; nothing is uploaded then.
        """
        return tuple(dict.fromkeys(root.path for root in self._read()))

    def refuse(self, paths: Iterable[Path], what: str) -> None:
        """Refuse paths that are, hold or lie in a folder of data or a folder of this site.

        Links and mounts are looked through. A folder that was moved or renamed, and a file that has another name in a
        folder of data (a hard link), are recognised.

        Args:
            what: such as "uploaded".

        Raises:
            DeniedError: names both.
            ConfigurationError: it is not known what are data.
        """
        search = DataSearch((*self._read(), *self._own()))
        for path in paths:
            reason = search.why_not(str(path))
            if reason is not None:
                raise DeniedError(
                    f"{path} was not {what}: {reason}, and data never leave this site.",
                    hint="Keep containers and data in folders of their own. Where a folder holds no data any more, its "
                    f"entry can be taken out of {self._file}.",
                )

    def _own(self) -> list[Root]:
        place = read_place(self._home.path)
        whole = [self._home.path, self._home.path / USUAL, *([place.folder, place.old] if place else [])]
        folders = [folder for folder in whole if folder]
        # parts of them may have been put on another disk
        links = [entry for folder in folders if folder.is_dir() for entry in folder.iterdir() if entry.is_symlink()]
        reason = "is where this site keeps its keys, records and prepared data"
        return [Root(os.path.realpath(path), None, reason) for path in (*folders, *links)]

    def _read(self) -> tuple[Root, ...]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(str(error)) from error
        try:
            if not isinstance(found, list):
                raise TypeError("no list")
            return tuple(_root(entry) for entry in found)
        except (TypeError, KeyError, ValueError) as error:
            raise self._damaged("it is no list of folders") from error

    def _damaged(self, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"The list of data folders {self._file} is damaged: {why}.",
            hint='Mend it: a JSON list of {"path": "/a/path"}. Nothing is uploaded while this is so.',
        )


def _entry(root: Root) -> dict[str, Any]:
    return {"path": root.path, **(attrs.asdict(root.identity) if root.identity else {})}


def _root(entry: Any) -> Root:
    """An entry of the list, which people may write; one without numbers, or a mere path, counts by its path only.

    Raises:
        TypeError, KeyError, ValueError: it is none.
    """
    if isinstance(entry, str):
        entry = {"path": entry}
    path, numbers = entry["path"], {name: value for name, value in entry.items() if name != "path"}
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise ValueError("no path")
    if not all(type(value) is int or (name == "born" and value is None) for name, value in numbers.items()):
        raise TypeError("no number")
    return Root(os.path.normpath(path), FileIdentity(**numbers) if numbers else None)


def _says(known: Root, root: Root) -> bool:
    """Whether an entry is there already for a folder as it is now."""
    if known.path != root.path or root.identity is None:
        return known.path == root.path
    return known.identity is not None and known.identity.is_that(root.identity)

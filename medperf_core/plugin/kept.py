"""Folders that a backend keeps in the site's cache: ``medperf cache`` lists, checks and frees them.

A backend that wants that keeps each of them directly below its own folder (``cache_dir/NAME``), or below one folder in
it (``cache_dir/NAME/SORT``), and works on that folder under ``keeping``. The time of a kept folder says when it was
last used. It is checked by the hashes that ``write_sums`` put into it, or by its own name if that is the hexadecimal
``tree_digest`` of what it holds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from medperf_core.errors import InvalidEntityError
from medperf_core.plugin.digest import file_digest, tree_digest

LOCK = ".kept.lock"
"""In a backend's folder: held while something there is made, taken into use, or freed."""

SUMS = "SHA256SUMS"
"""In a kept folder: the SHA-256 of its files, as ``sha256sum`` writes them."""
_SUM = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_-][A-Za-z0-9._-]{0,254})")
_HEX = re.compile(r"[0-9a-f]{64}")
_SUMS_BYTES = 1 << 20


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Hold a backend's folder; made if it is not there. Not to be nested."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(folder / LOCK, mode=0o600):
        yield


def note_use(kept: Path) -> None:
    """Note that a kept folder is used now; until the command ends, it is not freed."""
    with suppress(OSError):  # a cache that only others may write to
        os.utime(kept)


def write_sums(kept: Path, sums: Mapping[str, str]) -> None:
    """Say what the files of a kept folder must be.

    Args:
        sums: hexadecimal SHA-256, by the file's name.
    """
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sums.items()))
    (kept / SUMS).write_text(lines, encoding="utf-8")


def is_intact(kept: Path, on_bytes: Callable[[int], None] | None = None) -> bool | None:
    """Hash what is in a kept folder: whether it is what it was.

    None if nothing tells what it was, or if one of its files is a link to what was freed meanwhile.
    """
    try:
        with (kept / SUMS).open("rb") as stream:
            lines = stream.read(_SUMS_BYTES).decode("ascii").splitlines()
        sums = [match for line in lines if (match := _SUM.fullmatch(line))]
        return len(sums) == len(lines) > 0 and all(file_digest(kept / sum[2], on_bytes) == sum[1] for sum in sums)
    except FileNotFoundError as error:
        missing = Path(str(error.filename))
        if missing != kept / SUMS:
            return None if missing.is_symlink() else False
    except (OSError, ValueError):
        return False
    if not _HEX.fullmatch(kept.name):
        return None
    try:
        return tree_digest(kept, on_bytes=on_bytes) == f"sha256:{kept.name}"
    except (OSError, InvalidEntityError):
        return False

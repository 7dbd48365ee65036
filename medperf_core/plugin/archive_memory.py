"""Remembers what was read of an image archive, so that an unchanged one is not read again for every task.

Trusted only while the file system says that the file is untouched: device, inode, size, and both times. The time of
change is set by the system and by nobody else. A file that changed just before it was read could change again within
the same tick of the clock, and is not remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from pathlib import Path

import attrs

from medperf_core.entities.codec import from_data, to_data
from medperf_core.errors import MedperfError
from medperf_core.plugin.context import BackendContext
from medperf_core.plugin.image_archive import Image, read

YOUNG_SECONDS = 2.0
_RECORD_LIMIT = 96 << 20
FOLDER = "image-archives"


@attrs.frozen
class _Memory:
    looks: tuple[int, ...]
    sha256: str
    images: tuple[Image, ...]


def read_archive(path: Path, context: BackendContext) -> tuple[str, tuple[Image, ...]]:
    """``image_archive.read``, from memory if the archive has not changed since."""
    record = context.cache_dir / FOLDER / f"{hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()}.json"
    before = _looks(path)
    kept = _recall(record)
    if kept is not None and kept.looks == before:
        return kept.sha256, kept.images
    sha256, images = read(path, context)
    if before and _looks(path) == before and time.time() - max(before[-2:]) / 1e9 > YOUNG_SECONDS:
        _keep(record, _Memory(before, sha256, images))
    return sha256, images


def _looks(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _recall(record: Path) -> _Memory | None:
    try:
        with record.open("rb") as stream:
            data = stream.read(_RECORD_LIMIT + 1)
        return from_data(json.loads(data), _Memory) if len(data) <= _RECORD_LIMIT else None
    except (OSError, ValueError, RecursionError, MedperfError):
        return None  # it is read anew


def _keep(record: Path, memory: _Memory) -> None:
    part = record.with_suffix(f".{secrets.token_hex(6)}.part")
    with contextlib.suppress(OSError):  # without it the next command reads the archive again
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            part.write_text(json.dumps(to_data(memory)), encoding="utf-8")
            part.replace(record)
        finally:
            part.unlink(missing_ok=True)

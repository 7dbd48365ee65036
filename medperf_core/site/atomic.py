"""Files and folders that appear whole or not at all, also when the power fails in between."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_NAME_PART = 48  # characters of up to four bytes each: the temporary name must fit into 255 bytes


def temporary_beside(path: Path) -> Path:
    """A new name, hidden and not guessable, in the folder of ``path``; nothing is created."""
    return path.with_name(f".{path.name[:_NAME_PART]}.{secrets.token_hex(8)}.tmp")


def write_atomically(
    path: Path, content: bytes | str | Callable[[BinaryIO], None], mode: int = 0o600, *, durable: bool = True
) -> None:
    """Write a file in one step: readers see the old file or all of the new one.

    Args:
        path: the file; replaced if it exists. Its folder must exist.
        content: the bytes, text (written as UTF-8), or a function that writes them to the stream it is given.
        mode: permissions of the file, whatever the umask.
        durable: wait until it is on the disk. Else a power failure may leave the old file, none, or an empty one.

    Raises:
        OSError: it cannot be written; the old file is untouched and no temporary file remains.
    """
    temporary = temporary_beside(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            if callable(content):
                content(stream)
            else:
                stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Fill a folder beside ``target`` and give it that name when the block ends without an error.

    Yields:
        the empty folder to fill, mode 0700 until its owner changes it.

    Raises:
        FileExistsError: ``target`` exists, at the start or by the end; what was made is removed.
    """
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists already")
    temporary = temporary_beside(target)
    temporary.mkdir(mode=0o700)
    try:
        yield temporary
        move_in(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def move_in(folder: Path, target: Path) -> None:
    """Give a finished folder its name, on the same file system.

    Raises:
        FileExistsError: ``target`` exists; the folder stays where it is.
    """
    # rename() itself would replace an empty folder or, for a file, a file.
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists already")
    folder.rename(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot; the rename itself is still atomic
    finally:
        os.close(descriptor)

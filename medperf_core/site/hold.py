"""Locks of single entries: taken for every file, so they have to cost less than fetching one.

They are the locks that ``filelock`` takes on this kind of system (flock), without its bookkeeping. Lock files may be
removed only while nobody can hold or ask for them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medperf_core.site.home import cannot_lock


@contextmanager
def held(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file against other processes and threads; not to be nested.

    Args:
        wait: until nobody else holds it; else the block is told at once whether it is held.

    Raises:
        ConfigurationError: the disk cannot lock files.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise cannot_lock(path, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            mine = True
        except BlockingIOError:
            mine = False
        except OSError as error:
            raise cannot_lock(path, error) from error
        yield mine
    finally:
        os.close(descriptor)

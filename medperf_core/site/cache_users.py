"""Which commands use the cache now: so that it is not moved below them, and nothing that they use is freed.

A user holds a shared lock of the home against moves, and a file of its own in the cache, locked as long as it runs,
whose time says when it began: what was used since then may be in use. All locks end with their process.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from medperf_core.errors import ConfigurationError
from medperf_core.site.cache_place import WORK, in_home
from medperf_core.site.home import LOCK_SECONDS, Home, locked

USERS = "users"
"""Folder in the cache with the files of its users."""
CLOCK_SECONDS = 2.0
"""What the clock of a file system may be coarse."""
_POLL = 0.1


@contextmanager
def using(home: Home) -> Iterator[Path]:
    """The folder of the cache, which stays where it is until the block ends.

    Raises:
        ConfigurationError: it is being moved, or is not there.
    """
    with _held(home, fcntl.LOCK_SH, LOCK_SECONDS):
        with _gate(home):
            folder = home.cache_dir
            users = folder / USERS
            users.mkdir(mode=0o700, exist_ok=True)
            for other in users.iterdir():
                _running_since(other)  # takes away what killed ones left
            file = users / secrets.token_hex(16)
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not in_home(home.path, folder):
            (folder / WORK).mkdir(mode=0o700, exist_ok=True)
            home.clean_temp(folder / WORK)
        try:
            yield folder
        finally:
            file.unlink(missing_ok=True)
            os.close(descriptor)


@contextmanager
def moving(home: Home) -> Iterator[None]:
    """Nobody uses the cache until the block ends.

    Raises:
        ConfigurationError: somebody does.
    """
    with _held(home, fcntl.LOCK_EX, 0):
        yield


@contextmanager
def freeing(home: Home) -> Iterator[tuple[Path, float]]:
    """The folder of the cache, and the time since which what was used may be in use (seconds since the epoch, by the
    cache's own file system); no new user begins until the block ends.

    Raises:
        ConfigurationError: the cache is being moved, or is not there.
    """
    with _held(home, fcntl.LOCK_SH, LOCK_SECONDS), _gate(home):
        folder = home.cache_dir
        users = folder / USERS
        users.mkdir(mode=0o700, exist_ok=True)
        now = users / ".now"
        now.touch()
        began = [now.stat().st_mtime]
        now.unlink()
        began += [moment for moment in map(_running_since, users.iterdir()) if moment is not None]
        yield folder, min(began) - CLOCK_SECONDS


def _running_since(file: Path) -> float | None:
    """When a user began; None if it is gone, whose file is removed then."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        started = os.fstat(descriptor).st_mtime
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return started
        with suppress(OSError):
            file.unlink()
        return None
    finally:
        os.close(descriptor)


def _gate(home: Home) -> AbstractContextManager[None]:
    return locked(home.locks / "cache-gate.lock", "the cache to free some of it")


@contextmanager
def _held(home: Home, kind: int, seconds: float) -> Iterator[None]:
    descriptor = os.open(home.locks / "cache-use.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise _busy(kind) from None
                time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)


def _busy(kind: int) -> ConfigurationError:
    if kind == fcntl.LOCK_EX:
        return ConfigurationError(
            "Another medperf command is using the cache, so it was not moved.",
            hint="Wait for it to end, then try again.",
        )
    return ConfigurationError("The cache is being moved by another medperf command.", hint="Try again when it is done.")

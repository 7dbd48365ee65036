"""Which commands use the cache now: so that it is not moved below them, and nothing that they use is freed.

A user holds two shared locks against moves, of its home and of the cache, which another home (a copy) may use too. And
it has a file of its own in the cache, locked as long as it runs, whose time says when it began: what was used since
then may be in use. All locks end with their process. Where a network disk keeps the locks of each machine apart, the
file of another machine counts for some days.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from medperf_core.errors import ConfigurationError
from medperf_core.plugin.processes import machine
from medperf_core.site.cache_place import work_place
from medperf_core.site.home import ABANDONED_SECONDS, LOCK_SECONDS, Home, cannot_lock

USERS = "users"
"""Folder in the cache with the files of its users."""
CLOCK_SECONDS = 2.0
"""What the clocks of machines that share a disk may differ."""
_LOCK = ".use.lock"
_POLL = 0.1


@contextmanager
def using(home: Home) -> Iterator[Path]:
    """The folder of the cache, which stays where it is until the block ends.

    Raises:
        ConfigurationError: it is being moved, or is not there, or its disk cannot lock files.
    """
    with _held(home, fcntl.LOCK_SH) as folder:
        with _in_words(folder):
            for other in _users(folder):
                _running_since(other)  # takes away what killed ones left
        file, descriptor = _registered(folder / USERS)
        try:
            with _in_words(folder):
                work = work_place(home.path, folder)
                if work is not None:
                    work.mkdir(mode=0o700, exist_ok=True)
                    home.clean_temp(work)
            yield folder
        finally:
            file.unlink(missing_ok=True)
            os.close(descriptor)


@contextmanager
def moving(home: Home, *, lost: bool = False) -> Iterator[None]:
    """Nobody uses the cache until the block ends.

    Args:
        lost: there is no cache; only commands of this home are kept from the one that comes.

    Raises:
        ConfigurationError: somebody does; or it is not there, or its disk cannot lock files.
    """
    if lost:
        with _locked(home.locks / "cache-use.lock", fcntl.LOCK_EX, 0):
            yield
        return
    with _held(home, fcntl.LOCK_EX) as folder:
        for other in _users(folder):
            if _running_since(other) is not None:
                raise ConfigurationError(
                    "A medperf command on another machine is using the cache, or was killed there; it was not moved.",
                    hint=f"Wait for it to end. If none runs there, remove {other}, then try again.",
                )
        yield


@contextmanager
def freeing(home: Home) -> Iterator[tuple[Path, float]]:
    """The folder of the cache, and the time since which what was used may be in use (seconds since the epoch, by the
    cache's own file system). What others begin to use meanwhile is younger than that.

    Raises:
        ConfigurationError: the cache is being moved, or is not there, or its disk cannot lock files.
    """
    with _held(home, fcntl.LOCK_SH) as folder:
        with _in_words(folder):
            now = folder / USERS / f".now-{secrets.token_hex(8)}"
            now.touch(mode=0o600)
            moment = now.stat().st_mtime
            now.unlink()
            began = [began for began in map(_running_since, _users(folder)) if began is not None]
        yield folder, min([moment, *(each - CLOCK_SECONDS for each in began)])


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether no command of any home uses the cache in a folder, which stays so until the block ends."""
    with ExitStack() as held:
        try:
            free = True
            if (folder / USERS).is_dir():
                held.enter_context(_locked(folder / USERS / _LOCK, fcntl.LOCK_EX, 0))
                free = all(_running_since(other) is None for other in _users(folder))
        except (ConfigurationError, OSError):
            free = False
        yield free


def _registered(users: Path) -> tuple[Path, int]:
    """The file of a new user, locked, and its descriptor."""
    while True:
        file = users / f"{machine()}.{os.getpid()}.{secrets.token_hex(8)}"
        try:
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if file.exists():  # else somebody took it for one of the dead, in the moment before it was locked
                    return file, descriptor
            except BaseException:
                file.unlink(missing_ok=True)
                os.close(descriptor)
                raise
            os.close(descriptor)
        except OSError as error:
            raise cannot_lock(file, error) from error


def _users(folder: Path) -> list[Path]:
    return [file for file in (folder / USERS).iterdir() if not file.name.startswith(".")]


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
        if file.name.partition(".")[0] != machine() and time.time() - started < ABANDONED_SECONDS:
            return started  # not every network disk shows the locks of other machines
        with suppress(OSError):
            file.unlink()
        return None
    finally:
        os.close(descriptor)


@contextmanager
def _held(home: Home, kind: int) -> Iterator[Path]:
    """The folder of the cache, with both locks against moves; whoever moves it does not wait for others."""
    seconds = LOCK_SECONDS if kind == fcntl.LOCK_SH else 0.0
    with _locked(home.locks / "cache-use.lock", kind, seconds):
        folder = home.cache_dir
        with _in_words(folder):
            (folder / USERS).mkdir(mode=0o700, exist_ok=True)
        with _locked(folder / USERS / _LOCK, kind, seconds):
            yield home.cache_dir  # looked at again: another home may have moved it away


@contextmanager
def _locked(file: Path, kind: int, seconds: float) -> Iterator[None]:
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise cannot_lock(file, error) from error
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
            except OSError as error:
                raise cannot_lock(file, error) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"The cache in {folder} cannot be used: {error.strerror or error}.",
            hint="It must be a folder that you can write; put it elsewhere with: medperf cache move FOLDER",
        ) from error


def _busy(kind: int) -> ConfigurationError:
    if kind == fcntl.LOCK_EX:
        return ConfigurationError(
            "Another medperf command is using the cache, so it was not moved.",
            hint="Wait for it to end, then try again.",
        )
    return ConfigurationError("The cache is being moved by another medperf command.", hint="Try again when it is done.")

"""The account that a task runs as where root starts it: which inputs it cannot read, and its outputs there and back.

For runners whose tasks are never root: root hands the outputs to the task's account for as long as it runs. Whoever
is not root can hand nothing over, and need not: the task runs as that account itself.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medperf_core.errors import ConfigurationError, ExecutionError
from medperf_core.plugin.layout import Bind


def parse_account(text: str) -> tuple[int, int]:
    """Read ``UID`` or ``UID:GID``; a group that is not said has the user's number.

    Raises:
        ConfigurationError: it is not of that form.
    """
    found = re.fullmatch(r"([0-9]{1,10})(?::([0-9]{1,10}))?", text)
    if not found:
        raise ConfigurationError(f"run_as is {text!r}; it must be UID:GID in numbers, such as 65534:65534.")
    return int(found[1]), int(found[2] or found[1])


def unreadable(binds: Iterable[Bind], uid: int, gid: int) -> Iterator[Path]:
    """Mounted inputs whose permissions shut the account out.

    Raises:
        ExecutionError: one does not exist, or the caller may not read it either.
    """
    for bind in binds:
        try:
            status = bind.host.stat()
        except OSError as error:
            raise ExecutionError(f"{bind.host} cannot be mounted for the task: {error.strerror}.") from error
        if not os.access(bind.host, os.R_OK):
            raise ExecutionError(
                f"{bind.host} cannot be read by this user, so no task can read it.",
                hint="Have its permissions changed, or run as a user who may read it.",
            )
        need = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else 0)
        shift = 6 if status.st_uid == uid else (3 if status.st_gid == gid else 0)
        if uid not in (0, os.geteuid()) and not bind.writable and (status.st_mode >> shift) & need != need:
            yield bind.host


@contextmanager
def handed_over(binds: Iterable[Bind], uid: int, gid: int) -> Iterator[None]:
    """While this holds, the outputs belong to the account; afterwards, with all in them, to whom they did before."""
    writable = [bind.host for bind in binds if bind.writable]
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    owners = [(path, path.stat().st_uid, path.stat().st_gid) for path in writable]
    try:
        for path in writable:
            _give(path, uid, gid)
        yield
    finally:
        for path, old_uid, old_gid in owners:
            _give(path, old_uid, old_gid)


def _give(path: Path, uid: int, gid: int) -> None:
    """Change the owner of a file or tree; links are not followed, and the system drops set-user-ID bits with it.

    By the system's own program, which reaches the end of a tree that a task made too deep for any path.

    Raises:
        ExecutionError: the file system does not allow it.
    """
    command = ["chown", "-hRP", "--", f"{uid}:{gid}", str(path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise ExecutionError(
            f"The owner of {path} cannot be changed: {said}.",
            hint="Root hands outputs to its tasks' account. Put them on a disk of this machine, or run as a user.",
        )

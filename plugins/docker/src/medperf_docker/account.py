"""Who a task runs as, and handing its outputs to that account and back."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from medperf_core.errors import ConfigurationError, ExecutionError
from medperf_core.plugin.layout import Bind
from medperf_docker.connect import Endpoint
from medperf_docker.daemon import Daemon


@attrs.frozen
class Account:
    """An account of this machine and how a container is told to run as it.

    Attributes:
        inside: UID:GID as the container sees it.
        uid: user on the host.
        gid: group on the host.
        userns: mode of the user namespace; "" for the daemon's own.
    """

    inside: str
    uid: int
    gid: int
    userns: str = ""


def account(daemon: Daemon, endpoint: Endpoint, run_as: str) -> Account:
    """Who tasks run as on this daemon: whoever runs this program; for root, the account that the settings name.

    On a rootless daemon it is the daemon's user, who is root inside and nobody special outside.
    """
    if daemon.rootless:
        uid, gid = _owner(endpoint)
        if daemon.podman:
            return Account(f"{uid}:{gid}", uid, gid, "keep-id")
        return Account("0:0", uid, gid)
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        uid, gid = parse(run_as)
    # A remapped user could neither read the inputs nor write the outputs; this one has no rights to lose.
    return Account(f"{uid}:{gid}", uid, gid, "host" if daemon.remapped else "")


def parse(text: str) -> tuple[int, int]:
    """Read ``UID`` or ``UID:GID``.

    Raises:
        ConfigurationError: it is not of that form.
    """
    found = re.fullmatch(r"([0-9]{1,10})(?::([0-9]{1,10}))?", text)
    if not found:
        raise ConfigurationError(f"run_as is {text!r}; it must be UID:GID in numbers, such as 65534:65534.")
    return int(found[1]), int(found[2] or found[1])


def _owner(endpoint: Endpoint) -> tuple[int, int]:
    try:
        status = Path(endpoint.socket or "").stat()
    except OSError:
        return os.geteuid(), os.getegid()
    return status.st_uid, status.st_gid


def extra_groups(binds: Iterable[Bind], who: Account) -> tuple[int, ...]:
    """Groups by which the caller may read what is mounted, other than the account's own."""
    if who.userns == "keep-id" or who.uid != os.geteuid():
        return ()
    owners = {bind.host.stat().st_gid for bind in binds if bind.host.exists()}
    return tuple(sorted(owners & set(os.getgroups()) - {who.gid, 0}))


def unreadable(binds: Iterable[Bind], who: Account) -> Iterator[Path]:
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
        shift = 6 if status.st_uid == who.uid else (3 if status.st_gid == who.gid else 0)
        if who.uid not in (0, os.geteuid()) and not bind.writable and (status.st_mode >> shift) & need != need:
            yield bind.host


@contextmanager
def handed_over(binds: Iterable[Bind], who: Account) -> Iterator[None]:
    """While this holds, the outputs belong to the account; afterwards, with all in them, to whom they did before."""
    writable = [bind.host for bind in binds if bind.writable]
    if os.geteuid() != 0 or who.uid == 0:
        yield
        return
    owners = [(path, path.stat().st_uid, path.stat().st_gid) for path in writable]
    try:
        for path in writable:
            _give(path, who.uid, who.gid)
        yield
    finally:
        for path, uid, gid in owners:
            _give(path, uid, gid)


def _give(path: Path, uid: int, gid: int) -> None:
    """Change the owner of a file or tree; links are not followed, and the system drops set-user-ID bits with it."""
    os.chown(path, uid, gid, follow_symlinks=False)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            os.chown(Path(folder, name), uid, gid, follow_symlinks=False)

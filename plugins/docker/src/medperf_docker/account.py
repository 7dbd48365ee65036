"""Who a task runs as."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import attrs

from medperf_core.plugin.handover import parse_account
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
        uid, gid = parse_account(run_as)
    # A remapped user could neither read the inputs nor write the outputs; this one has no rights to lose.
    return Account(f"{uid}:{gid}", uid, gid, "host" if daemon.remapped else "")


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

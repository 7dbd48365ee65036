"""What ``medperf doctor`` shows of Docker."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from medperf_core.entities.image import IdentityKind
from medperf_core.errors import MedperfError
from medperf_core.plugin import BackendContext, Check, Health, Limit
from medperf_docker.connect import Connection
from medperf_docker.container import LABEL
from medperf_docker.daemon import Daemon, probe, unfiltered
from medperf_docker.syscalls import find_filter

LITTLE_ROOM = 20 << 30
"""Bytes; images of this field are often larger than half of it."""


def checks(connection: Connection, context: BackendContext) -> Iterator[Check]:
    """The daemon from its address to what tasks left behind."""
    try:
        daemon = probe(connection)
        filtered = find_filter(connection, daemon, context) is not None
        address = connection.endpoint.address
    except MedperfError as error:
        yield Check("docker daemon", Health.FAILED, error.message, error.hint or "")
        return
    yield Check("docker daemon", Health.OK, f"{daemon.engine} at {address}")
    yield _privileges(daemon, filtered)
    yield _limits(daemon)
    yield Check("docker gpus", Health.OK, f"by {daemon.gpu_driver}" if daemon.gpu_driver else "none to hand out")
    yield from _store(daemon, address)
    yield from _left_over(connection)


def _privileges(daemon: Daemon, filtered: bool) -> Check:
    words = "rootless" if daemon.rootless else "runs as root"
    if filtered:
        return Check("docker isolation", Health.OK, f"{words}; system calls are filtered")
    cure = (
        "Have Podman run on this machine, by an account that can read the cache"
        if daemon.seccomp
        else ("Use a kernel and an engine with seccomp")
    )
    return Check(
        "docker isolation",
        Health.WARNING,
        f"{words}; {unfiltered(daemon)}",
        f"{cure}; until then tasks need --allow more-privileges.",
    )


def _limits(daemon: Daemon) -> Check:
    missing = [limit.value for limit in (Limit.MEMORY, Limit.PROCESSES, Limit.CPU) if limit not in daemon.limits]
    if not missing:
        return Check("docker limits", Health.OK, "memory, processes and CPUs can be limited")
    advice = "A rootless daemon needs control groups v2 that are delegated to its user."
    if daemon.watched:
        words = f"{', '.join(missing)} cannot be limited by the daemon; a watchdog holds the tasks to it"
        return Check("docker limits", Health.OK, words, advice)
    return Check("docker limits", Health.WARNING, f"{', '.join(missing)} cannot be limited", advice)


def _store(daemon: Daemon, address: str) -> Iterator[Check]:
    kind = "containerd image store" if daemon.id_kind is IdentityKind.MANIFEST else "classic image store"
    yield Check("docker storage", Health.OK, f"{daemon.storage}, {kind}, {daemon.root}")
    if not address.startswith("unix:"):
        return
    try:
        free = shutil.disk_usage(Path(daemon.root)).free
    except OSError:
        return  # it is in a virtual machine, or closed to this user
    room = f"{free / (1 << 30):.0f} GiB free for images"
    if free < LITTLE_ROOM:
        yield Check("docker room", Health.WARNING, room, "`docker system df` shows what can be removed.")
    else:
        yield Check("docker room", Health.OK, room)


def _left_over(connection: Connection) -> Iterator[Check]:
    try:
        with connection.client("list containers") as client:
            found = len(client.containers(all=True, filters={"label": f"{LABEL}=1"}))
    except MedperfError as error:
        yield Check("docker containers", Health.WARNING, error.message)
        return
    if found:
        yield Check(
            "docker containers",
            Health.WARNING,
            f"{found} containers of tasks are there",
            "If no task is running: docker rm --force --volumes $(docker ps --all --quiet "
            f"--filter label={LABEL}=1); docker volume prune --filter label={LABEL}=1",
        )

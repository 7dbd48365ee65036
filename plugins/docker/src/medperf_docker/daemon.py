"""What the daemon says of itself, and what it can therefore guarantee."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from medperf_core.entities.image import IdentityKind
from medperf_core.errors import ExecutionError
from medperf_core.plugin import Capabilities, Enforcement, Guarantee, Limit
from medperf_docker.connect import TIMEOUT, Client, Connection, one_line
from medperf_docker.processes import is_here

_CONTROLLED = (
    (Limit.MEMORY, "MemoryLimit", "memory"),
    (Limit.PROCESSES, "PidsLimit", "pids"),
    (Limit.CPU, "CpuCfsQuota", "cpu"),
)
"""Limits, how Docker says that it can hold them, and the control group that does."""


@attrs.frozen
class Daemon:
    """A daemon as it was found.

    Attributes:
        engine: name and version.
        id: its own identification, for records of what was built there.
        podman: whether it is Podman behind Docker's interface.
        rootless: whether it runs as an unprivileged user.
        remapped: whether it maps the users of containers to others (``userns-remap``).
        seccomp: whether it can filter the system calls of containers.
        limits: the limits that it can hold.
        cpus: CPUs of its machine.
        memory: bytes of its machine.
        gpu_driver: "nvidia" or "cdi"; None if it cannot hand out GPUs.
        cdi_gpus: names of the GPUs for the driver "cdi".
        id_kind: what an image ID is the digest of; MANIFEST in containerd's image store.
        architecture: of its machine, such as ``amd64``.
        storage: storage driver.
        root: folder of its image store on its machine.
        api: version of its interface.
        here: whether its containers are processes of this machine that this user may look at and stop.
        ulimits: whether it sets the resource limits that it is asked for; rootless Podman does not.
    """

    engine: str
    id: str
    podman: bool
    rootless: bool
    remapped: bool
    seccomp: bool
    limits: frozenset[Limit]
    cpus: int
    memory: int
    gpu_driver: str | None
    cdi_gpus: tuple[str, ...]
    id_kind: IdentityKind
    architecture: str
    storage: str
    root: str
    api: tuple[int, ...]
    here: bool = False
    ulimits: bool = True

    @property
    def watched(self) -> frozenset[Limit]:
        """The limits that it cannot hold and a watchdog on this machine can."""
        return frozenset(limit for limit, _, _ in _CONTROLLED) - self.limits if self.here else frozenset()


def probe(connection: Connection) -> Daemon:
    """Ask the daemon.

    Raises:
        ExecutionError: it cannot be reached, is not understood, or runs another kind of containers.
    """
    with connection.client("tell about itself") as client:
        info, version = client.info(), client.version()
        own = _podman_itself(client) if _is_podman(version) else {}
        found = read(info, version, own)
        return attrs.evolve(found, here=is_here(connection.endpoint.socket, info, rootless=found.rootless))


def _is_podman(version: Mapping[str, Any]) -> bool:
    return any("podman" in str(part.get("Name", "")).lower() for part in version.get("Components") or ())


def _podman_itself(client: Client) -> Mapping[str, Any]:
    """What Podman says of its machine in its own words: Docker's leave out that it is rootless."""
    answer = client.get(f"{client.base_url}/v4.0.0/libpod/info", timeout=TIMEOUT)
    if answer.status_code != 200:  # before version 4 there is none
        return {}
    found = answer.json().get("host")
    return found if isinstance(found, dict) else {}


def read(info: Mapping[str, Any], version: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> Daemon:
    """The daemon that these answers of it describe.

    Args:
        own: Podman's own account of its machine.
    """
    if str(info.get("OSType", "linux")) != "linux":
        raise ExecutionError(
            f"This Docker daemon runs {info.get('OSType')} containers; tasks need Linux containers.",
            hint="Switch it to Linux containers.",
        )
    podman, own = _is_podman(version), own or {}
    options = [str(option) for option in info.get("SecurityOptions") or ()]
    limits = {Limit.TIME}
    controllers = own.get("cgroupControllers")
    for limit, key, controller in _CONTROLLED:
        if info.get(key) and (controllers is None or controller in controllers):
            limits.add(limit)
    devices = [str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or ()]
    cdi = tuple(sorted(name for name in devices if "/gpu=" in name and not name.endswith("=all")))
    nvidia = "nvidia" in (info.get("Runtimes") or {})
    store = dict(pair for pair in info.get("DriverStatus") or () if len(pair) == 2)
    root = str(info.get("DockerRootDir") or "")
    rootless = "name=rootless" in options or bool((own.get("security") or {}).get("rootless"))
    containerd = str(store.get("driver-type", "")).startswith("io.containerd.snapshotter")
    return Daemon(
        engine=one_line(f"{'podman' if podman else 'docker'} {version.get('Version', '?')}", 100),
        id=f"podman {root}" if podman else str(info.get("ID") or ""),  # Podman makes up another ID for each answer
        podman=podman,
        rootless=rootless,
        remapped="name=userns" in options,
        seccomp=any(option.startswith("name=seccomp") for option in options),
        limits=frozenset(limits),
        cpus=int(info.get("NCPU") or 0),
        memory=int(info.get("MemTotal") or 0),
        gpu_driver="nvidia" if nvidia else ("cdi" if cdi else None),
        cdi_gpus=cdi,
        id_kind=IdentityKind.MANIFEST if containerd else IdentityKind.CONFIG,
        architecture=str(version.get("Arch") or ""),
        storage=one_line(str(info.get("Driver") or "?"), 100),
        root=root,
        ulimits=not (podman and rootless),
        api=tuple(int(part) for part in str(version.get("ApiVersion", "0")).split(".") if part.isdigit()),
    )


def unfiltered(daemon: Daemon) -> str:
    """Why it does not take the filter of system calls, as a sentence."""
    if not daemon.seccomp:
        return "The daemon cannot filter system calls (no seccomp)."
    return (
        "Podman cannot read the filter of system calls in this site's cache, and its own lets a task make a user "
        "namespace."
    )


def capabilities(daemon: Daemon, address: str, *, root_inside: bool, filtered: bool) -> Capabilities:
    """What tasks are promised on this daemon.

    Args:
        filtered: whether it takes the filter of system calls.
        address: where it is.
        root_inside: whether tasks would run as the host's root.
    """
    guarantees = {Guarantee.NETWORK, Guarantee.MOUNTS, Guarantee.READ_ONLY_INPUTS}
    notes = []
    if filtered and not root_inside:
        guarantees.add(Guarantee.PRIVILEGES)
    if not filtered:
        notes.append(unfiltered(daemon))
    if root_inside:
        notes.append("run_as names root: tasks would run as root of this machine.")
    if daemon.rootless:
        notes.append("The daemon is rootless: tasks run as its user.")
    held = {limit: Enforcement.ENGINE if limit in daemon.limits else Enforcement.NONE for limit in Limit}
    held |= dict.fromkeys((Limit.TIME, *daemon.watched), Enforcement.POLLED)
    if daemon.watched:
        words = ", ".join(sorted(limit.value for limit in daemon.watched))
        notes.append(f"The daemon cannot limit {words}: the tasks' processes are watched and stopped instead.")
    if held[Limit.PROCESSES] is Enforcement.NONE and daemon.ulimits:
        held[Limit.PROCESSES] = Enforcement.POLLED
        notes.append("Processes are counted per account (ulimit), together with others of the daemon's user.")
    missing = [limit.value for limit, _, _ in _CONTROLLED if held[limit] is Enforcement.NONE]
    if missing:
        notes.append(f"The daemon cannot limit {', '.join(missing)}: its control groups are not set up for it.")
    if address.startswith(("tcp:", "ssh:", "http:", "https:")):
        notes.append(f"The daemon is at {address}: folders must have the same paths on its machine.")
    return Capabilities(daemon.engine, frozenset(guarantees), held, daemon.gpu_driver is not None, tuple(notes))

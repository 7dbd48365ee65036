"""What a task's container is: one description, told to the SDK and, for people, as a ``docker run`` command."""

from __future__ import annotations

import csv
import io
import re
import resource
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import attrs

from medperf_core.errors import ExecutionError
from medperf_core.plugin import Gpus, Limit
from medperf_core.plugin.layout import Bind, container_layout, nested
from medperf_core.plugin.processes import machine, new_marker
from medperf_core.plugin.runner import TaskRequest
from medperf_docker.account import Account, extra_groups
from medperf_docker.connect import Client
from medperf_docker.daemon import Daemon
from medperf_docker.processes import SPARE, threads_of

if TYPE_CHECKING:
    from medperf_docker.syscalls import Filter

LABEL = "medperf"
RUN_LABEL = "medperf.run"
OWNER_LABEL = "medperf.owner"
"""Whose a container is: the machine and the marker of the program that made it."""
TMP = str(PurePosixPath("/", "tmp"))
"""A task's own scratch folder and home, inside its container."""
MEMORY_SHARE = 0.9
"""Of the machine's memory, what a task gets where nobody says a limit: the rest keeps the machine alive."""
_SECRET = re.compile(r"pass|secret|token|key|credential", re.IGNORECASE)


@attrs.frozen
class Watched:
    """Limits that the engine cannot hold, so that a watchdog does.

    Attributes:
        memory: bytes; None for no limit.
        processes: number; None for no limit.
        cpus: CPUs; None for no limit.
    """

    memory: int | None = None
    processes: int | None = None
    cpus: float | None = None

    def __bool__(self) -> bool:
        return self != Watched()


@attrs.frozen
class Container:
    """A container before it is made.

    Attributes:
        name: unique to this run.
        run: the run's id, for its label.
        image: image ID.
        user: UID:GID inside.
        userns: mode of the user namespace; "" for the daemon's own.
        groups: more groups of the user.
        environment: all variables that are set besides the image's own.
        binds: what is mounted; nested mounts of the host are listed by themselves.
        volumes: folders that the image declares as volumes; given read-only.
        entrypoint: replaces the image's; empty to keep it.
        command: arguments; empty to keep the image's.
        memory: bytes that the engine holds it to; None for no limit.
        cpus: CPUs, likewise.
        processes: number, likewise.
        ulimits: soft and hard limits of single processes, by the names of ``ulimit``.
        shm_size: bytes of /dev/shm; None for the engine's default.
        tmpfs: options of its own /tmp.
        gpus: which.
        gpu_driver: how GPUs are handed out, and the names of those there are for "cdi".
        init: whether a small first process collects orphans.
        working_dir: where it starts; "" for the image's own choice.
        syscalls: the filter of system calls; None for the engine's own, if it has one.
        watched: limits that the engine does not hold.
    """

    name: str
    run: str
    image: str
    user: str
    userns: str
    groups: tuple[int, ...]
    environment: Mapping[str, str]
    binds: tuple[Bind, ...]
    volumes: tuple[str, ...]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    memory: int | None
    cpus: float | None
    processes: int | None
    ulimits: Mapping[str, int]
    shm_size: int | None
    tmpfs: str
    gpus: Gpus
    gpu_driver: str | None
    cdi_gpus: tuple[str, ...]
    init: bool = True
    working_dir: str = ""
    syscalls: Filter | None = None
    watched: Watched = Watched()

    @property
    def volume_names(self) -> Mapping[str, str]:
        """Names of the run's own volumes for the paths in ``volumes``: engines refuse nameless ones read-only."""
        return {f"medperf-{self.run}-{number}": path for number, path in enumerate(self.volumes)}


def describe(
    image: Mapping[str, Any],
    reference: str,
    request: TaskRequest,
    who: Account,
    daemon: Daemon,
    syscalls: Filter | None,
    run: str,
) -> Container:
    """The container of a task.

    Args:
        image: the daemon's description of the image.
        reference: its ID.
        who: the account that it runs as.
        syscalls: the filter of system calls that the daemon takes.
        run: id of the run.
    """
    layout = container_layout(request.task, request.mounts)
    binds = tuple(part for bind in layout.binds for part in (bind, *nested(bind)))
    if daemon.podman:
        _refuse_options_in_paths(binds)
    targets = {str(PurePosixPath(bind.target)) for bind in binds} | {TMP}
    declared = {str(PurePosixPath(path)) for path in (image.get("Config") or {}).get("Volumes") or {}}
    resources = request.resources
    cpus = (resources.cpus or float(daemon.cpus)) if Limit.CPU in daemon.limits else None
    memory = resources.memory or int(daemon.memory * MEMORY_SHARE) or None
    watched = Watched(
        memory if Limit.MEMORY in daemon.watched else None,
        resources.processes if Limit.PROCESSES in daemon.watched else None,
        resources.cpus if Limit.CPU in daemon.watched else None,
    )
    return Container(
        name=f"medperf-{request.task.name}-{run}",
        run=run,
        image=reference,
        user=who.inside,
        userns=who.userns,
        groups=extra_groups(binds, who),
        environment={"HOME": TMP, **request.task.environment, **request.environment},
        binds=binds,
        volumes=tuple(sorted(declared - targets)),
        entrypoint=layout.entrypoint,
        command=layout.command,
        memory=memory if Limit.MEMORY in daemon.limits else None,
        cpus=min(cpus, daemon.cpus) if cpus and daemon.cpus else cpus,
        processes=resources.processes if Limit.PROCESSES in daemon.limits else None,
        ulimits=_ulimits(daemon, resources.processes, who),
        shm_size=resources.shm_size,
        tmpfs=_tmpfs(resources.tmp_size, who, daemon),
        gpus=resources.gpus,
        gpu_driver=daemon.gpu_driver,
        cdi_gpus=daemon.cdi_gpus,
        working_dir=request.working_dir,
        syscalls=syscalls,
        watched=watched,
    )


def _refuse_options_in_paths(binds: tuple[Bind, ...]) -> None:
    """Podman joins the fields of a mount to one text and reads that again: a comma would begin another option."""
    for path in (path for bind in binds for path in (str(bind.host), bind.target)):
        if re.search(r'[,"\n\r]', path):
            raise ExecutionError(
                f"Podman cannot mount {path!r}: a comma or quotation mark would start an option.",
                hint="Rename the folder, use Docker, or have the manifest changed.",
            )


def labels(run: str) -> dict[str, str]:
    """What shows whose a container is."""
    return {LABEL: "1", RUN_LABEL: run, OWNER_LABEL: f"{machine()}.{new_marker()}"}


def create_arguments(client: Client, plan: Container) -> dict[str, Any]:
    """The arguments of the SDK's ``create_container``."""
    from docker.types import LogConfig, Ulimit

    host = client.create_host_config(
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true", *([f"seccomp={plan.syscalls.value}"] if plan.syscalls else [])],
        init=plan.init,
        mounts=_mounts(plan),
        tmpfs={TMP: plan.tmpfs},
        mem_limit=plan.memory,
        memswap_limit=plan.memory,
        nano_cpus=round(plan.cpus * 1e9) if plan.cpus else None,
        pids_limit=plan.processes,
        shm_size=plan.shm_size,
        ulimits=[Ulimit(name=name, soft=value, hard=value) for name, value in plan.ulimits.items()],
        group_add=list(plan.groups) or None,
        device_requests=device_requests(plan) or None,
        log_config=LogConfig(type="none"),
    )
    if plan.userns:
        host["UsernsMode"] = plan.userns  # the SDK's own argument refuses Podman's keep-id
    return {
        "image": plan.image,
        "name": plan.name,
        "user": plan.user,
        "working_dir": plan.working_dir or None,
        "entrypoint": list(plan.entrypoint) or None,
        "command": list(plan.command) or None,
        "environment": [f"{name}={value}" for name, value in plan.environment.items()],
        "labels": labels(plan.run),
        "healthcheck": {"test": ["NONE"]},
        "use_config_proxy": False,  # proxies, and passwords in them, are not a task's business
        "host_config": host,
    }


def _mounts(plan: Container) -> list[Any]:
    from docker.types import Mount

    mounts = []
    for bind in plan.binds:
        mount = Mount(bind.target, str(bind.host), type="bind", read_only=not bind.writable)
        mount["BindOptions"] = {"Propagation": "rprivate", "NonRecursive": True}
        mounts.append(mount)
    for name, path in plan.volume_names.items():
        mounts.append(Mount(path, name, type="volume", read_only=True, labels={LABEL: "1", RUN_LABEL: plan.run}))
    return mounts


def device_requests(plan: Container) -> list[Any]:
    """The SDK's request for GPUs."""
    from docker.types import DeviceRequest

    if not plan.gpus:
        return []
    if plan.gpu_driver == "cdi":
        return [DeviceRequest(driver="cdi", device_ids=list(_cdi_names(plan)))]
    if plan.gpus.ids:
        return [DeviceRequest(device_ids=list(plan.gpus.ids), capabilities=[["gpu"]])]
    return [DeviceRequest(count=plan.gpus.count, capabilities=[["gpu"]])]


def _cdi_names(plan: Container) -> tuple[str, ...]:
    if plan.gpus.ids:
        vendor = plan.cdi_gpus[0].partition("=")[0] if plan.cdi_gpus else "nvidia.com/gpu"
        return tuple(name if "=" in name else f"{vendor}={name}" for name in plan.gpus.ids)
    return plan.cdi_gpus if plan.gpus.count < 0 else plan.cdi_gpus[: plan.gpus.count]


def _ulimits(daemon: Daemon, processes: int | None, who: Account) -> dict[str, int]:
    """No core dumps, and a number of processes where no control group counts them.

    The kernel counts those of the account. Where a watchdog counts the task's own, this one only has to keep a task
    that multiplies from being faster than the watchdog.
    """
    if not daemon.ulimits:
        return {}
    limits = {"core": 0}
    if daemon.podman:
        # It would ask for more than this machine may allow, and fail: a task gets no more than its caller has.
        limits |= {"nofile": _own(resource.RLIMIT_NOFILE, 1 << 20), "nproc": _own(resource.RLIMIT_NPROC, 1 << 15)}
    if processes is not None and Limit.PROCESSES not in daemon.limits:
        room = processes + SPARE + threads_of(who.uid) if Limit.PROCESSES in daemon.watched else 0
        limits["nproc"] = _own(resource.RLIMIT_NPROC, processes + room)
    return limits


def _own(kind: int, most: int) -> int:
    """The caller's own limit, which is the machine's usual one, or less: only the machine's root may ask for more."""
    hard = resource.getrlimit(kind)[1]
    return most if hard == resource.RLIM_INFINITY else min(most, hard)


def _tmpfs(size: int, who: Account, daemon: Daemon) -> str:
    options = f"rw,exec,nosuid,nodev,mode=1777,size={size}"
    if daemon.podman:
        return options
    # Docker's runtime lets the mode of the image's own /tmp win, which may be anything, but not its owner.
    uid, _, gid = who.inside.partition(":")
    return f"{options},uid={uid},gid={gid}"


def command_line(plan: Container, host: str) -> tuple[str, ...]:
    """The ``docker run`` command that makes the same container. Variables that look like secrets are given by name.

    Args:
        host: the daemon's address, where it is not docker's own choice; "" otherwise.
    """
    words = ["docker", *(["--host", host] if host else []), "run", "--rm", "--pull=never", "--network=none"]
    words += ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges:true", "--no-healthcheck"]
    words += [f"--security-opt=seccomp={plan.syscalls.file}"] if plan.syscalls else []
    words += [
        *(["--init"] if plan.init else []),
        *(f"--ulimit={name}={value}:{value}" for name, value in plan.ulimits.items()),
    ]
    words += ["--log-driver=none", f"--user={plan.user}"]
    words += [f"--workdir={plan.working_dir}"] if plan.working_dir else []
    words += [f"--userns={plan.userns}"] if plan.userns else []
    words += [f"--group-add={group}" for group in plan.groups]
    words += [f"--tmpfs={TMP}:{plan.tmpfs}"]
    words += [f"--memory={plan.memory}", f"--memory-swap={plan.memory}"] if plan.memory else []
    words += [f"--cpus={plan.cpus:g}"] if plan.cpus else []
    words += [f"--pids-limit={plan.processes}"] if plan.processes else []
    words += [f"--shm-size={plan.shm_size}"] if plan.shm_size else []
    if plan.gpus and plan.gpu_driver == "cdi":
        words += [f"--device={name}" for name in _cdi_names(plan)]
    elif plan.gpus:
        words += [f'--gpus="{plan.gpus}"' if plan.gpus.ids else f"--gpus={plan.gpus}"]
    for name, value in plan.environment.items():
        words += ["--env", name if _SECRET.search(name) else f"{name}={value}"]
    inner = {bind for bind in plan.binds if any(bind is not each and _inside(bind, each) for each in plan.binds)}
    for bind in plan.binds:
        fields = ["type=bind", f"source={bind.host}", f"target={bind.target}", "bind-propagation=rprivate"]
        fields += [] if bind.writable else ["readonly"]
        fields += ["bind-recursive=disabled"] if any(_inside(each, bind) for each in inner) else []
        words += ["--mount", _csv(fields)]
    for name, path in plan.volume_names.items():
        words += ["--mount", _csv(["type=volume", f"source={name}", f"target={path}", "readonly"])]
    words += ["--entrypoint", plan.entrypoint[0]] if plan.entrypoint else []
    return (*words, plan.image, *plan.entrypoint[1:], *plan.command)


def _inside(bind: Bind, outer: Bind) -> bool:
    return bind.host != outer.host and bind.host.is_relative_to(outer.host)


def _csv(fields: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()

"""What a task's container is: one description, told to the engine as a list of arguments."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import attrs

from medperf_core.errors import ExecutionError
from medperf_core.plugin import BackendContext, Gpus, Limit, PreparedImage, TaskRequest
from medperf_core.plugin.handover import parse_account
from medperf_core.plugin.layout import Bind, container_layout, nested
from medperf_singularity.config import RUNSCRIPT, ImageConfig
from medperf_singularity.engine import APPTAINER, PATH, Engine
from medperf_singularity.probe_data import Ability

if TYPE_CHECKING:
    from medperf_singularity.plugin import SingularitySettings

TMP = str(PurePosixPath("/", "tmp"))
"""A task's own scratch folder and home, inside its container."""
SHM = str(PurePosixPath("/", "dev", "shm"))
SHM_SIZE = 64 << 20
"""Bytes of /dev/shm where nobody says a size: as with Docker."""
MEMORY_SHARE = 0.9
"""Of the machine's memory, what a task gets where nobody says a limit: the rest keeps the machine alive."""
STARTER_PROCESSES = 32
"""Threads of the engine's own in a container, which its limit of processes counts too."""
ENVIRONMENT = "/.singularity.d/env"
"""Where an engine reads an image's variables, as shell scripts; ours stand there instead of the image's."""
SCRIPT = "zz-medperf.sh"
"""Ours among them: the engine takes them in the order of their names, so that this one has the last word."""
HOST_NAME = "medperf"
_SYSTEM = (Path("/sys/devices/system/cpu"), Path("/sys/devices/system/node"))
"""All that a task sees of /sys: by these, libraries of numerics find out how many processors there are."""
_BEGIN = 'echo $$ >"$1"; shift; ulimit -c 0; '
_AS_ROOT = _BEGIN + 'mount -t tmpfs -o "$1" medperf "$2" && mount -t tmpfs -o "$3" medperf "$4" && shift 4 && exec "$@"'
_AS_USER = (
    _BEGIN + 'if [ "$1" != 0 ]; then ulimit -u "$1" 2>/dev/null || ulimit -p "$1" 2>/dev/null; fi; shift; exec "$@"'
)


@attrs.frozen
class Plan:
    """A container before it is started.

    Attributes:
        image: SIF file or sandbox folder.
        words: program and arguments inside.
        variables: all variables inside, besides those that the engine cannot be kept from setting.
        binds: what is mounted, in this order.
        working_dir: where it starts.
        uid: user inside and on the host.
        gid: group inside and on the host.
        root: whether root starts it, for another account.
        network: whether the network is cut off.
        seccomp: whether system calls are filtered.
        memory: bytes that the engine holds it to; None if it does not.
        cpus: CPUs that the engine holds it to; None if it does not.
        processes: number that the engine holds it to; None if it does not.
        own_limit: most processes of the account, by a resource limit; 0 for none.
        tmp_size: bytes of its own /tmp.
        shm_size: bytes of /dev/shm; None for the default.
        sized: whether the engine takes settings of ours: above all, a size of what it keeps in memory for a user.
        gpus: which.
        own_scripts: whether the image sets its variables by scripts of its own, which then run before ours.
    """

    image: str
    words: tuple[str, ...]
    variables: Mapping[str, str]
    binds: tuple[Bind, ...]
    working_dir: str
    uid: int
    gid: int
    root: bool
    network: bool
    seccomp: bool
    memory: int | None = None
    cpus: float | None = None
    processes: int | None = None
    own_limit: int = 0
    tmp_size: int = 1 << 30
    shm_size: int | None = None
    sized: bool = False
    gpus: Gpus = attrs.field(factory=Gpus)
    own_scripts: bool = False


def account(settings: SingularitySettings, request: TaskRequest | None = None) -> tuple[int, int]:
    """Who a task runs as: whoever runs this program; for root, the account that the request or the settings name."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    return parse_account((request.user if request else "") or settings.run_as)


def describe(
    settings: SingularitySettings, ability: Ability, prepared: PreparedImage, config: ImageConfig, request: TaskRequest
) -> Plan:
    """The container of a task.

    Raises:
        ExecutionError: the image has no program to start, or a volume's place cannot be mounted.
    """
    layout = container_layout(request.task, request.mounts)
    command = layout.command or (() if layout.entrypoint else config.cmd)  # Docker's rule
    words = (*(layout.entrypoint or config.entrypoint), *command)
    if not words:
        raise ExecutionError(
            f"The image of {prepared.source} has no command, and neither has the manifest for the task "
            f"{request.task.name}.",
            hint="Give the task an entrypoint or a command in the manifest, or build the image with one.",
        )
    binds = tuple(part for bind in layout.binds for part in (bind, *nested(bind)))
    for bind in binds:
        _check_target(bind.target)
    uid, gid = account(settings, request)
    resources, root = request.resources, os.geteuid() == 0
    own_scripts = config.entrypoint[:1] == (RUNSCRIPT,)  # it was made for this engine, and for no other
    first = {} if own_scripts else {"PATH": PATH}
    variables = {**first, **config.env, "HOME": TMP, **request.task.environment, **request.environment}
    variables |= gpu_variables(resources.gpus, variables)
    held = ability.limits
    memory, cpus, processes = wanted(request)
    return Plan(
        image=prepared.reference,
        words=words,
        variables=variables,
        binds=(*(Bind(path, str(path), False) for path in _SYSTEM if path.is_dir()), *binds),
        working_dir=request.working_dir or config.working_dir or "/",
        uid=uid,
        gid=gid,
        root=root,
        network=ability.network,
        seccomp=ability.seccomp,
        memory=memory if Limit.MEMORY in held else None,
        cpus=cpus if Limit.CPU in held else None,
        processes=processes if Limit.PROCESSES in held else None,
        own_limit=own_limit(processes) if processes and Limit.PROCESSES not in held else 0,
        tmp_size=resources.tmp_size,
        shm_size=resources.shm_size,
        sized=ability.sized,
        gpus=resources.gpus,
        own_scripts=own_scripts,
    )


def wanted(request: TaskRequest) -> tuple[int, float | None, int | None]:
    """Memory in bytes, CPUs and processes that a task may use, whoever holds it to them."""
    resources = request.resources
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cpus = min(resources.cpus, float(os.cpu_count() or 1)) if resources.cpus else None
    return resources.memory or int(machine * MEMORY_SHARE), cpus, resources.processes


def own_limit(processes: int) -> int:
    """The most processes and threads for the account: those that it has, the engine's, and the task's.

    The kernel counts all of an account's together.
    """
    count = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == os.geteuid():
                count += sum(1 for _ in (entry / "task").iterdir())
        except OSError:
            continue  # it ended meanwhile
    return count + STARTER_PROCESSES + processes


def gpu_variables(gpus: Gpus, variables: Mapping[str, str]) -> dict[str, str]:
    """How CUDA is told which GPUs to use, and where the engine puts the driver's libraries."""
    if not gpus:
        return {}
    # an image's own choice would be one for another engine
    which = ",".join(gpus.ids) if gpus.ids else ("all" if gpus.count < 0 else ",".join(map(str, range(gpus.count))))
    found = {"NVIDIA_VISIBLE_DEVICES": which}
    if which != "all":
        found["CUDA_VISIBLE_DEVICES"] = which
    libraries = [part for part in (variables.get("LD_LIBRARY_PATH", ""), "/.singularity.d/libs") if part]
    return {**found, "LD_LIBRARY_PATH": ":".join(libraries)}


def _check_target(target: str) -> None:
    if re.search(r"[\x00\r\n]", target):
        raise ExecutionError(
            f"{target!r} cannot be a volume's place in a container: it holds the end of a line.",
            hint="Rename the file, or have the manifest changed.",
        )
    for taken in ("/proc", "/sys", "/.singularity.d"):
        if PurePosixPath(target).is_relative_to(taken):
            raise ExecutionError(f"No volume can be mounted at {target}: {taken} is the engine's.")


def engine_words(engine: Engine, plan: Plan, folder: Path, pid_file: str = "/dev/null") -> tuple[str, ...]:
    """The whole command, with ``folder`` holding the files that ``parts.write`` makes for it.

    Args:
        pid_file: where its process id is written.
    """
    if plan.root:
        own = f"rw,nosuid,nodev,mode=1777,uid={plan.uid},gid={plan.gid}"
        sizes = (
            f"{own},size={plan.tmp_size}",
            folder / "tmp",
            f"{own},size={plan.shm_size or SHM_SIZE}",
            folder / "shm",
        )
        words = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", _AS_ROOT, "medperf", pid_file]
        words += map(str, sizes)
    else:
        words = ["/bin/sh", "-c", _AS_USER, "medperf", pid_file, str(plan.own_limit)]
    words += [engine.program, "--silent"]
    words += ["--config", str(folder / "engine.conf")] if plan.sized else []
    words += ["exec", *_closed(engine, plan, folder), *_limits(plan)]
    words += ["--nv"] if plan.gpus else []
    if plan.root:
        words += ["--mount", mount(folder / "tmp", TMP, True), "--mount", mount(folder / "shm", SHM, True)]
    else:
        words += ["--scratch", TMP, "--scratch", SHM]
    for number, bind in enumerate(plan.binds):
        words += ["--mount", mount(source(bind, number, folder), bind.target, bind.writable)]
    ours = (folder / "env" / SCRIPT, f"{ENVIRONMENT}/{SCRIPT}") if plan.own_scripts else (folder / "env", ENVIRONMENT)
    words += ["--mount", mount(*ours, False), "--pwd", plan.working_dir]
    return (*words, plan.image, *plan.words)


def _closed(engine: Engine, plan: Plan, folder: Path) -> list[str]:
    """Every guarantee, asked for by name: none is left to the engine's settings."""
    shut = ["home", "tmp", "sys", "cwd", "hostfs"]
    if engine.name == APPTAINER or engine.version >= (3, 10):
        shut.append("bind-paths")
    words = ["--containall", "--pid", "--ipc", "--uts", "--hostname", HOST_NAME, "--cleanenv", "--no-home"]
    words += ["--no-mount", ",".join(shut), "--no-privs", "--drop-caps", "ALL"]
    words += ["--net", "--network", "none"] if plan.network else []
    words += ["--security", _fields(f"seccomp:{folder / 'seccomp.json'}")] if plan.seccomp else []
    if plan.root and plan.uid:
        words += ["--security", f"uid:{plan.uid}", "--security", f"gid:{plan.gid}"]
    return words


def _limits(plan: Plan) -> list[str]:
    words = ["--memory", str(plan.memory), "--memory-swap", str(plan.memory)] if plan.memory else []
    words += ["--cpus", f"{plan.cpus:g}"] if plan.cpus else []
    return [*words, *(["--pids-limit", str(plan.processes + STARTER_PROCESSES)] if plan.processes else [])]


def source(bind: Bind, number: int, folder: Path) -> Path:
    """What is named as a bind's source: itself, or a link where its name could not be part of an argument."""
    return folder / f"link{number}" if re.search(r"[\x00-\x1f\x7f]", str(bind.host)) else bind.host


def mount(path: Path, target: str, writable: bool) -> str:
    """One ``--mount``: comma-separated values with quotation, so no character of a path can begin another field."""
    return _fields("type=bind", f"source={path}", f"destination={target}", *([] if writable else ["ro"]))


def _fields(*values: str) -> str:
    """Values as the engine takes several in one argument: separated by commas, quoted where they must be."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def command_line(
    engine: Engine,
    settings: SingularitySettings,
    context: BackendContext,
    prepared: PreparedImage,
    config: ImageConfig,
    request: TaskRequest,
) -> tuple[str, ...]:
    """The command that does the same as ``run``.

    The files that it names are kept in the cache. Variables that look like secrets are left out of them.
    """
    from medperf_singularity import parts, probe

    plan = describe(settings, probe.ability(engine, settings, context), prepared, config, request)
    return shown(engine, context, plan, parts.keep(engine, context, plan))


def shown(engine: Engine, context: BackendContext, plan: Plan, folder: Path) -> tuple[str, ...]:
    """A command with the variables that the engine gets, and nothing that holds for one run only."""
    variables = (f"{name}={value}" for name, value in engine.context_environment(context).items())
    lasting = attrs.evolve(plan, own_limit=0)
    return ("env", "-i", *variables, *engine_words(engine, lasting, folder))

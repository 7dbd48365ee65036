"""What an engine can do on this machine: a container of nothing is started with all that a task's is, and looks.

The container's image is an empty folder, and the program in it is a script for the engine's own interpreter: so
nothing from outside is needed, and what is found is what a task would find.
"""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from medperf_core.errors import ExecutionError
from medperf_core.plugin import BackendContext, Capabilities, Condition, Enforcement, Guarantee, Limit
from medperf_core.plugin.layout import Bind
from medperf_singularity import parts
from medperf_singularity.arguments import Plan, account, engine_words
from medperf_singularity.engine import Engine, plugin_cache
from medperf_singularity.probe_data import Ability

if TYPE_CHECKING:
    from medperf_singularity.plugin import SingularitySettings

SECONDS = 60
_LOOK = """
echo "medperf: the task begins"
while read -r line; do echo "status $line"; done </proc/self/status
while read -r line; do echo "net $line"; done </proc/net/dev
if (: >/written) 2>/dev/null; then echo "root is written"; fi
if (: >/in/written) 2>/dev/null; then echo "input is written"; fi
if test -e /in/here; then echo "input is there"; fi
if test -e {sentinel}; then echo "host is seen"; fi
exit 3
"""
_DONE = 3
"""Not 0: after that an engine would go on to start a program, and there is none."""


def capabilities(engine: Engine, settings: SingularitySettings, context: BackendContext) -> Capabilities:
    """What tasks are promised with this engine; see ``Runner.capabilities``.

    Raises:
        ExecutionError: no container can be started at all.
    """
    found = ability(engine, settings, context)
    root = os.geteuid() == 0
    limits = {limit: Enforcement.ENGINE if limit in found.limits else Enforcement.POLLED for limit in Limit}
    limits[Limit.DISK] = Enforcement.NONE
    conditions = {Condition.WORKING_DIR}
    conditions |= {Condition.TMP_SIZE} if root or found.sized else set()
    conditions |= {Condition.USER} if root else set()  # only root can hand outputs over to anybody
    notes = [f"{what} does not work: {words}" for what, words in found.problems]
    if root and account(settings)[0] == 0:
        notes.append("run_as names root: tasks would run as root of this machine.")
    if not found.limits:
        notes.append("Memory, processes and CPUs are watched, not held by control groups.")
    if not root and not found.sized:
        notes.append("The size of /tmp is the site's: 'sessiondir max size' in the engine's settings.")
    return Capabilities(engine.words, found.guarantees, limits, has_gpus(), tuple(notes), frozenset(conditions))


def has_gpus(devices: Path = Path("/dev")) -> bool:
    """Whether NVIDIA's driver shows a GPU."""
    return any(devices.glob("nvidia[0-9]*")) and (devices / "nvidiactl").exists()


def ability(engine: Engine, settings: SingularitySettings, context: BackendContext) -> Ability:
    """What the engine can do here; looked at once in a program's life.

    Raises:
        ExecutionError: no container can be started at all.
    """
    return _ability(engine, account(settings), context.temp_dir, context.cache_dir)


@functools.lru_cache(maxsize=8)
def _ability(engine: Engine, who: tuple[int, int], temp_dir: Path, cache_dir: Path) -> Ability:
    context = BackendContext(cache_dir, temp_dir)
    root, sized = os.geteuid() == 0, parts.can_size(engine)
    problems: list[tuple[str, str]] = []
    for network, filtered, limits in _ways(root):
        plan = _plan(context, who, network=network, filtered=filtered, limits=limits)
        seen = _start(engine, context, attrs.evolve(plan, sized=sized))
        if isinstance(seen, str):
            problems.append((_tried(network, filtered, limits), seen))
            continue
        what = _missing(network, filtered)
        told = tuple((what, words) for _, words in problems[:1]) if what else ()
        return Ability(_guarantees(seen), network, filtered, limits, sized, told)
    raise ExecutionError(
        f"{engine.program} cannot start any container here: {problems[-1][1]}.",
        hint="Unprivileged user namespaces must be allowed on this machine (sysctl user.max_user_namespaces, on "
        "Ubuntu also kernel.apparmor_restrict_unprivileged_userns); `medperf doctor` tells more.",
    )


def _ways(root: bool) -> Iterator[tuple[bool, bool, frozenset[Limit]]]:
    """Whether to cut the network off, whether to filter system calls, and limits to hold: the best way first."""
    every, none = frozenset({Limit.MEMORY, Limit.CPU, Limit.PROCESSES}), frozenset[Limit]()
    if root or Path("/sys/fs/cgroup/cgroup.controllers").exists():
        yield True, True, every
    yield True, True, none
    yield False, True, none
    yield True, False, none
    yield False, False, none


def _tried(network: bool, filtered: bool, limits: frozenset[Limit]) -> str:
    return f"network={network} seccomp={filtered} limits={bool(limits)}"


def _missing(network: bool, filtered: bool) -> str:
    names = (*(() if network else ("cutting the network off",)), *(() if filtered else ("filtering system calls",)))
    return " or ".join(names)


def empty_image(context: BackendContext) -> Path:
    """A sandbox folder with nothing in it but what an engine needs to start."""
    image = plugin_cache(context) / "nothing"
    for name in ("proc", "sys", "dev/shm", "tmp", "in", ".singularity.d/env", ".singularity.d/actions"):
        (image / name).mkdir(mode=0o755, parents=True, exist_ok=True)
    program = image / ".singularity.d/actions/exec"
    program.touch(mode=0o755)
    return image


def _plan(
    context: BackendContext, who: tuple[int, int], *, network: bool, filtered: bool, limits: frozenset[Limit]
) -> Plan:
    return Plan(
        image=str(empty_image(context)),
        words=("nothing",),
        variables={},
        binds=(),
        working_dir="/",
        uid=who[0],
        gid=who[1],
        root=os.geteuid() == 0,
        network=network,
        seccomp=filtered,
        memory=256 << 20 if limits else None,
        cpus=1 if limits else None,
        processes=64 if limits else None,
        tmp_size=1 << 20,
    )


def _start(engine: Engine, context: BackendContext, plan: Plan) -> set[str] | str:
    """The lines that the container told; or the engine's words of why it was not started."""
    with parts.folder_of_run(context) as folder:
        data = folder / "in"
        data.mkdir(mode=0o755)
        data.chmod(0o777)
        (data / "here").touch()
        plan = attrs.evolve(plan, binds=(Bind(data, "/in", False),))
        parts.write(engine, plan, folder, _LOOK.format(sentinel=shlex.quote(str(folder))))
        try:
            done = subprocess.run(
                engine_words(engine, plan, folder),
                env=engine.context_environment(context),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                timeout=SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    before, begun, told = done.stdout.decode("utf-8", "replace").partition(f"{parts.STARTED}\n")
    if not begun or done.returncode != _DONE:
        return last_words(before + told)
    return set(told.splitlines())


def last_words(text: str) -> str:
    """The last thing that an engine said, without its name for how bad it is."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = next((line for line in reversed(lines) if line.startswith("FATAL")), lines[-1] if lines else "")
    return found.partition(":")[2].strip()[:500] if found.startswith("FATAL") else (found[:500] or "it said nothing")


def _guarantees(seen: set[str]) -> frozenset[Guarantee]:
    status = dict(line.removeprefix("status ").split(":", 1) for line in seen if line.startswith("status "))
    value = {name: words.split() for name, words in status.items()}
    found = set()
    cards = {
        line.removeprefix("net ").partition(":")[0].strip() for line in seen if line.startswith("net ") and ":" in line
    }
    if cards <= {"lo"}:
        found.add(Guarantee.NETWORK)
    if "root is written" not in seen and "host is seen" not in seen:
        found.add(Guarantee.MOUNTS)
    if "input is there" in seen and "input is written" not in seen:
        found.add(Guarantee.READ_ONLY_INPUTS)
    powers = [value.get(f"Cap{name}", ["?"]) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
    shut = value.get("NoNewPrivs") == ["1"] and value.get("Seccomp") == ["2"]
    if shut and powers == [["0" * 16]] * 5 and "0" not in value.get("Uid", ["0"]):
        found.add(Guarantee.PRIVILEGES)
    return frozenset(found)

"""The files that a container is started with: its variables, the filter of system calls, the engine's settings."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from medperf_core.plugin import BackendContext
from medperf_core.plugin.seccomp import profile
from medperf_singularity.arguments import SCRIPT, Plan, source
from medperf_singularity.engine import PATH, Engine, plugin_cache

STARTED = "medperf: the task begins"
"""The line after which all output is the task's; what comes before is the engine's."""
MISSING = "medperf: the program is not in the image"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_RESERVED = re.compile(r"(APPTAINER|SINGULARITY)_.*|UID|EUID|GID|PPID|PWD|OLDPWD|OPTIND|IFS|SHLVL|PS1|PROMPT_COMMAND")
"""Variables of the shell that reads the script, and of the engine."""
_SECRET = re.compile(r"pass|secret|token|key|credential", re.IGNORECASE)
_TOLD = ("config passwd", "config group", "config resolv_conf")
"""Settings by which an engine writes into a container who runs it, and on what network."""
_UNSET = ("LANG", "APPTAINER_BIND", "SINGULARITY_BIND")
"""What an engine sets besides; given as empty, it is taken away."""


def lost(variables: Mapping[str, str]) -> list[str]:
    """Names of variables that an engine cannot give to a task."""
    return [name for name in variables if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name)]


def script(plan: Plan, *, for_people: bool = False) -> str:
    """The shell script by which the engine's own interpreter sets a task's variables, inside the container.

    Every value is quoted, so that nothing in it is evaluated.

    Args:
        for_people: leave out the variables that look like secrets, and the lines that tell this program of the start.
    """
    gone = set(lost(plan.variables))
    gone |= {name for name in plan.variables if for_people and _SECRET.search(name)}
    lines = [f"export {name}=''" for name in _UNSET if name not in plan.variables]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in plan.variables.items() if name not in gone]
    if for_people:
        return "\n".join(lines) + "\n"
    program = shlex.quote(plan.words[0])
    test = f"test -x {program}" if "/" in plan.words[0] else f"command -v {program} >/dev/null"
    lines += [f"if ! {test}; then echo {shlex.quote(MISSING)}; exit 127; fi", f"echo {shlex.quote(STARTED)}"]
    return "\n".join(lines) + "\n"


def write(engine: Engine, plan: Plan, folder: Path, text: str | None = None) -> None:
    """Write all files of a container into an empty folder.

    Args:
        text: instead of ``script``.
    """
    for name in ("env", "tmp", "shm"):
        (folder / name).mkdir(mode=0o755)
        (folder / name).chmod(0o755)
    _put(folder / "env" / SCRIPT, script(plan) if text is None else text)
    _put(folder / "seccomp.json", profile())
    if plan.sized:
        _put(folder / "engine.conf", settings_text(engine, plan))
    for number, bind in enumerate(plan.binds):
        if source(bind, number, folder) != bind.host:
            (folder / f"link{number}").symlink_to(bind.host)


def _put(path: Path, text: str) -> None:
    path.write_text(text, "utf-8", newline="")
    path.chmod(0o644)  # the folder around it is the caller's alone


@contextmanager
def folder_of_run(context: BackendContext) -> Iterator[Path]:
    """A folder that only this account may enter, for as long as a task runs."""
    place = context.temp_dir / "singularity"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def keep(engine: Engine, context: BackendContext, plan: Plan) -> Path:
    """A folder in the cache with the files for a plan's command, without variables that look like secrets."""
    text = script(plan, for_people=True)
    links = [str(bind.host) for number, bind in enumerate(plan.binds) if source(bind, number, Path()) != bind.host]
    told = repr((text, plan.tmp_size, plan.shm_size, plan.sized, plan.root, plan.own_scripts, links, engine.words))
    folder = plugin_cache(context) / "commands" / hashlib.sha256(told.encode()).hexdigest()[:16]
    if not folder.is_dir():
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}")
        part.mkdir(mode=0o700)
        write(engine, plan, part, text)
        try:
            part.rename(folder)
        except OSError:  # another program was faster
            shutil.rmtree(part, ignore_errors=True)
    return folder


def settings_text(engine: Engine, plan: Plan) -> str:
    """The engine's own settings, but for the size of what it keeps in memory for a container, and what it tells there.

    /tmp and /dev/shm are both there, so that the size is that of both together. The caller's name and home, and the
    name servers of this machine, are nothing for a stranger's program; the files with them could be written, too.
    """
    size = math.ceil((plan.tmp_size + (plan.shm_size or 0)) / (1 << 20))
    text = Path(build_settings(engine).get("CONF_FILE", "")).read_text("utf-8", "replace")
    ours = {"sessiondir max size": str(size), **dict.fromkeys(_TOLD, "no")}
    kept = [line for line in text.splitlines() if line.partition("=")[0].strip() not in ours]
    return "\n".join([*kept, *(f"{name} = {value}" for name, value in ours.items()), ""])


@functools.lru_cache(maxsize=4)
def build_settings(engine: Engine) -> dict[str, str]:
    """What the engine was built with: names without the engine's own in front, such as ``SUID_INSTALL``."""
    try:
        answer = subprocess.run(
            [engine.program, "buildcfg"],
            env={"PATH": PATH},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    lines = (line.partition("=") for line in answer.stdout.decode("utf-8", "replace").splitlines())
    prefix = f"{engine.name.upper()}_"
    return {name.removeprefix(prefix): value for name, _, value in lines}


def can_size(engine: Engine) -> bool:
    """Whether the engine takes other settings from this user, which set-user-ID installations do from root only."""
    found = build_settings(engine)
    allowed = os.geteuid() == 0 or found.get("SUID_INSTALL") == "0"
    return allowed and Path(found.get("CONF_FILE", "/nowhere")).is_file()

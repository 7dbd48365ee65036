"""Making a SIF: by the engine's own ``build``, in a private folder, below a process group that ends with us.

The engine gets plain relative names only, because it reads a colon in a path as the end of a transport's name. It never
gets an address: what is converted has been fetched and verified already.
"""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from medperf_core.errors import ExecutionError
from medperf_core.plugin import BackendContext, Event, StepFinished, StepStarted
from medperf_core.plugin.processes import new_marker
from medperf_core.plugin.supervise import supervise
from medperf_core.plugin.tasklog import TaskLogWriter
from medperf_singularity import store
from medperf_singularity.engine import PATH, Engine
from medperf_singularity.files import free, no_room, require_room

_ZSTD = "-comp zstd -Xcompression-level 3"
_SQUEEZED = 0.6
"""Part of its size that a root file system surely has as a SIF: models and programs compress little, but some."""
_FULL = re.compile(r"no space left|disk quota exceeded", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+", re.ASCII)
_SPARE = 64 << 20
_PATIENCE, _SLOWEST = 3600, 1 << 20
"""Seconds that a conversion may take, and the bytes per second beyond that: an image could make it wait for ever."""
_ANSWER_SECONDS = 60


def build(
    engine: Engine,
    context: BackendContext,
    work: Path,
    target: str,
    sif: Path,
    what: str,
    unpacked: int,
    options: Sequence[str] = (),
) -> None:
    """Convert something in ``work`` into a SIF.

    Args:
        work: private folder; the engine's own temporary files go there too.
        target: what the engine reads, relative to ``work``, such as ``oci:layout``.
        sif: the file to make.
        what: the image, for people.
        unpacked: bytes of its files.
        options: more options of ``build``.

    Raises:
        ExecutionError: there is no room, or the engine failed; has its last words.
        CancelledError: the cancel token was set.
    """
    doing = f"convert the image {what}"
    step = f"Converting the image {what} for {engine.name}"
    (work / "image").symlink_to(sif.parent.absolute())
    command = [engine.program, "build", "--disable-cache", *compression(engine), *options, f"image/{sif.name}", target]
    with plain_path(work) as plain, TaskLogWriter(work / "build.log", "convert", _unheard) as log:
        needs = {plain: unpacked + _SPARE, sif.parent: int(unpacked * _SQUEEZED) + _SPARE}
        require_room(doing, needs)
        environment = engine.environment(plain, plain / "engine")
        context.emit(StepStarted(step))
        ended = supervise(
            command,
            cwd=work,
            environment=environment,
            log=log,
            cancel=context.cancel,
            marker=new_marker(),
            time_limit=_PATIENCE + unpacked / _SLOWEST,
        )
        if ended.timed_out:
            raise ExecutionError(f"{engine.name} did not {doing} within {ended.seconds / 3600:.1f} hours.")
        if ended.exit_code != 0 or not sif.is_file():
            if _FULL.search("\n".join(log.tail)):
                tight = min(needs, key=free)
                raise no_room(doing, tight, needs[tight], free(tight))
            raise failed(engine, doing, log.tail)
    context.emit(StepFinished(step))


def helper(command: Sequence[str], engine: Engine, context: BackendContext, work: Path, doing: str, need: int) -> None:
    """Run another program that fills ``work``, with nothing of the caller's environment.

    Args:
        doing: to follow "could not", for people.
        need: bytes that it will write there at least.

    Raises:
        ExecutionError: there is no room, or it failed; has its last words.
        CancelledError: the cancel token was set.
    """
    require_room(doing, {work: need})
    with TaskLogWriter(work / "helper.log", "convert", _unheard) as log:
        ended = supervise(
            command,
            cwd=work,
            environment=engine.environment(work, work / "engine"),
            log=log,
            cancel=context.cancel,
            marker=new_marker(),
            time_limit=_PATIENCE + need / _SLOWEST,
        )
    if ended.exit_code != 0:
        if _FULL.search("\n".join(log.tail)):
            raise no_room(doing, work, need, free(work))
        raise ExecutionError(f"{command[0]} could not {doing}: {_last(log.tail)}.")


@contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """The folder, or if its name is not of plain characters, another private one on a disk.

    While it builds, the engine writes the name of its temporary folder, links resolved and unquoted, into a shell
    script that it runs on this machine.
    """
    if _PLAIN.fullmatch(str(folder.resolve())):
        yield folder
    else:
        with store.new_folder(store.SYSTEM_TEMP) as place:
            yield place


def failed(engine: Engine, doing: str, tail: Sequence[str]) -> ExecutionError:
    """The error for an engine that could not do something, with its last words."""
    said = _last(tail)
    hint = None
    if re.search(r"mksquashfs", said):
        hint = "Install squashfs-tools."
    elif re.search(r"operation not permitted|permission denied|subuid|newuidmap", said, re.IGNORECASE):
        hint = "See what this account may do with: medperf doctor"
    return ExecutionError(f"{engine.name} could not {doing}: {said}.", hint=hint)


def _last(tail: Sequence[str]) -> str:
    words = [line for line in map(_plain, tail) if line and not line.startswith("INFO")]
    return " ".join(words[-4:])[-800:] or "it did not say why"


def compression(engine: Engine) -> tuple[str, ...]:
    """Options for zstd, which is three times as fast as the default, where all that must read it can."""
    if _takes_arguments(engine.program) and _writes_zstd() and _kernel_reads_zstd():
        return ("--mksquashfs-args", _ZSTD)
    return ()


@lru_cache(maxsize=8)
def _takes_arguments(program: str) -> bool:
    return b"--mksquashfs-args" in _output((program, "build", "--help"))


@lru_cache(maxsize=1)
def _writes_zstd() -> bool:
    return b"zstd" in _output(("mksquashfs", "-help"))


@lru_cache(maxsize=1)
def _kernel_reads_zstd() -> bool:
    """Whether this kernel's configuration says so; where it cannot be read, it is taken for an old one."""
    release = Path("/proc/sys/kernel/osrelease")
    try:
        places = (Path("/proc/config.gz"), Path(f"/boot/config-{release.read_text().strip()}"))
        for place in places:
            if place.exists():
                raw = place.read_bytes()
                return b"CONFIG_SQUASHFS_ZSTD=y" in (gzip.decompress(raw) if place.suffix == ".gz" else raw)
    except OSError:
        return False
    return False


def _output(command: Sequence[str]) -> bytes:
    try:
        done = subprocess.run(
            command,
            env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/nonexistent"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout


def _plain(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m|�\[[0-9;]*m", "", line).strip()


def _unheard(event: Event) -> None:
    """The engine's progress lines are kept for errors only."""

"""Starts daemons, remembers exactly which process each one is, and stops only those."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import state

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class EngineError(Exception):
    """An engine could not do what was asked; the text says why."""


@dataclasses.dataclass(frozen=True)
class Stat:
    """What /proc says about one process."""

    pid: int
    condition: str
    parent: int
    session: int
    began: int
    program: str
    arguments: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Record:
    """A process that was started here; a reused process id differs in one of these."""

    pid: int
    began: int
    boot: str
    arguments: tuple[str, ...]


def environment(**more: str) -> dict[str, str]:
    """A small environment for daemons: no proxy, no setting of the caller's."""
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/", **more}


def look(pid: int) -> Stat | None:
    """The process `pid` if it runs (a zombie does not)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    program, fields = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    arguments = tuple(os.fsdecode(part) for part in raw.rstrip(b"\0").split(b"\0"))
    return Stat(pid, fields[0], int(fields[1]), int(fields[3]), int(fields[19]), program, arguments)


def everything() -> Iterator[Stat]:
    """All processes that run."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := look(int(entry.name))) is not None:
            yield found


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def spawn(
    name: str, argv: Sequence[str], user: str | None = None, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a daemon in a session of its own and record it."""
    log = state.log(name)
    if log.exists():
        log.replace(log.with_suffix(".old"))
    with log.open("wb") as out:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=env or environment(),
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
    # Popen returns a moment before /proc shows the new command line: it is empty until then.
    while child.poll() is None and not getattr(look(child.pid), "arguments", ("",))[0]:
        time.sleep(0.001)
    remember(name, child.pid)
    return child


def remember(name: str, pid: int | None = None) -> None:
    """Write the record of a process; again once it is ready, as some daemons rewrite their command line."""
    old = recorded(name)
    found = look(pid if pid is not None else old.pid if old else 0)
    if found is not None and (pid is not None or (old is not None and found.began == old.began)):
        record = Record(found.pid, found.began, _boot(), found.arguments)
        state.write(state.run_file(name), json.dumps(dataclasses.asdict(record)))
    elif pid is not None:
        state.run_file(name).unlink(missing_ok=True)


def recorded(name: str) -> Record | None:
    """What was recorded at the last start, whether it still runs or not."""
    try:
        data = json.loads(state.run_file(name).read_text())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    return Record(data["pid"], data["began"], data["boot"], tuple(data["arguments"]))


def alive(name: str) -> bool:
    """Whether the recorded process still runs and is still that program."""
    record = recorded(name)
    return record is not None and _same(record) is not None


def _same(record: Record) -> Stat | None:
    found = look(record.pid)
    if found is None or record.boot != _boot() or found.began != record.began:
        return None
    if found.arguments != record.arguments and found.arguments[0].split(":")[0] != Path(record.arguments[0]).name:
        return None
    return found


def stop(name: str, sign: signal.Signals = signal.SIGTERM, seconds: float = 15) -> None:
    """Stop the recorded process, then what is left of its session; then forget it."""
    record = recorded(name)
    if record is None:
        return
    if _same(record) is not None:
        _send(record.pid, sign)
        if not _gone(record, seconds):
            _send(record.pid, signal.SIGKILL)
            _gone(record, 5)
    for orphan in _orphans(record):
        kill(orphan)
    state.run_file(name).unlink(missing_ok=True)


def kill(target: Stat) -> None:
    """End a process at once, if it is still the one that was seen, and wait until it has gone."""
    record = Record(target.pid, target.began, _boot(), target.arguments)
    if _same(record) is not None:
        _send(target.pid, signal.SIGKILL)
        _gone(record, 5)


def _orphans(record: Record) -> list[Stat]:
    """Workers whose master was killed: the kernel does not reuse a session's number while one of its members lives."""
    if record.boot != _boot() or look(record.pid) is not None:
        return []
    program = Path(record.arguments[0].split(":")[0]).name[:15]
    return [each for each in everything() if each.session == record.pid and each.program == program]


def _send(pid: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)


def _gone(record: Record, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _same(record) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def run(argv: Sequence[str], user: str | None = None, env: dict[str, str] | None = None) -> str:
    """Run a short command; its output, or an EngineError with the last lines of it."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        env=env or environment(),
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    if done.returncode != 0:
        raise EngineError(f"{Path(argv[0]).name} failed (exit code {done.returncode})\n{tail(done.stdout)}")
    return done.stdout


def tail(text: str, lines: int = 15) -> str:
    """The last lines of a text, indented."""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])

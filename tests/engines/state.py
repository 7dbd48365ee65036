"""The state folder: addresses (engines.env), ports, logs, and one folder of data per engine."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

DEFAULT = "/var/tmp/medperf-engines"
_port_lock = threading.Lock()
_handed_out: set[int] = set()


def folder() -> Path:
    """The state folder, absolute: MEDPERF_ENGINES_DIR or the default."""
    return Path(os.environ.get("MEDPERF_ENGINES_DIR") or DEFAULT).absolute()


def home(name: str) -> Path:
    """The folder of one engine's data."""
    return folder() / name


def log(name: str) -> Path:
    """The file that one engine's output goes to."""
    return folder() / "log" / f"{name}.log"


def run_file(name: str) -> Path:
    """A small JSON file kept about a process or an engine's ports."""
    return folder() / "run" / f"{name}.json"


def create() -> None:
    """Make the state folder; refuse one that somebody else could have put there."""
    path = folder()
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise PermissionError(f"{path} is not a folder of this user that only this user can write to; remove it first")
    for part in ("log", "run"):
        (path / part).mkdir(mode=0o755, exist_ok=True)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Only one start or stop works on the state folder at a time."""
    with (folder() / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as handle:
        handle.write(text)
    fresh.chmod(mode)
    fresh.replace(path)


def read_env() -> dict[str, str]:
    """What engines.env holds; {} when there is none."""
    try:
        lines = (folder() / "engines.env").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    return {key: value for key, found, value in (line.partition("=") for line in lines) if found}


def write_env(values: dict[str, str]) -> None:
    """Replace engines.env; without values it is removed."""
    path = folder() / "engines.env"
    if values:
        write(path, "".join(f"{key}={value}\n" for key, value in sorted(values.items())))
    else:
        path.unlink(missing_ok=True)


def ports(name: str, wanted: Sequence[str], fresh: bool = False) -> dict[str, int]:
    """A free loopback port for each wanted name: the one kept from the last start if it is free, else a new one."""
    path = run_file(f"{name}.ports")
    kept: dict[str, int] = json.loads(path.read_text()) if path.exists() and not fresh else {}
    chosen = {each: _free_port(kept.get(each)) for each in wanted}
    write(path, json.dumps(chosen))
    return chosen


def _free_port(preferred: int | None) -> int:
    with _port_lock:
        for port in (preferred or 0, 0, 0, 0, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                number: int = probe.getsockname()[1]
            if number not in _handed_out or number == preferred:
                _handed_out.add(number)
                return number
    raise OSError("no free loopback port was found")

"""What runs inside the tasks of ``RunnerContract``: does as it is told and reports what came of it.

A program of its own: it needs Python's standard library only, and is copied into the probe's image as ``probe.py``.
Called as ``probe.py [--LABEL=PATH ...] VERB [ARGUMENT ...]``. Most verbs write a JSON object to ``report.json`` in
the folder of the volume ``out``. Whatever it does is bounded, so that a runner without limits survives it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PATIENCE = 5.0
"""Seconds after which a task that should have been stopped ends by itself."""
MIB = 1 << 20
STEP = 4 * MIB
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x20000
MS_REMOUNT, MS_BIND, MNT_DETACH = 32, 4096, 2
SYSLOG_READ_ALL = 3
CLONE, CLONE3 = {"x86_64": (56, 435), "aarch64": (220, 435)}.get(os.uname().machine, (0, 0))
"""Numbers of system calls (syscalls(2)); 0 for a processor that is not known here."""

Places = dict[str, str]


def report(places: Places, found: dict[str, Any]) -> None:
    """Write what was found, for the test to read."""
    Path(places["out"], "report.json").write_text(json.dumps(found))


def say(line: str) -> None:
    """Tell the test something while the task runs."""
    print(line, flush=True)


def lines(path: str) -> list[str]:
    """The lines of a file; none if it cannot be read."""
    try:
        return Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def facts(places: Places, words: list[str]) -> None:
    """How the task was started and what it sees."""
    seen: dict[str, Any] = {"argv": sys.argv[1:], "environment": dict(os.environ), "cwd": str(Path.cwd())}
    seen |= {"here": sorted(path.name for path in Path().iterdir()), "mark": (HERE / "mark").read_text()}
    seen |= {"status": dict(line.split(":\t", 1) for line in lines("/proc/self/status") if ":\t" in line)}
    seen |= {"interfaces": [line.split(":")[0].strip() for line in lines("/proc/net/dev")[2:]]}
    seen |= {"commands": list(of_processes("cmdline")), "environments": list(of_processes("environ"))}
    seen |= {"uid": os.getuid(), "gid": os.getgid(), "input": standard_input()}
    report(places, seen)


def own(places: Places, words: list[str]) -> None:
    """What the image does if nobody says what."""
    say("the image's own command")


def of_processes(name: str) -> Iterator[str]:
    """A file, such as the command line, of all processes that can be seen."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield (entry / name).read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")


def standard_input() -> str:
    """Whether it has ended at once, gave something, or is open without end."""
    if not select.select([0], [], [], 1.0)[0]:
        return "open"
    return "data" if os.read(0, 1) else "ended"


def connect(places: Places, words: list[str]) -> None:
    """Try to reach a listener of the host by its TCP port and by its abstract Unix name."""
    port, name = words
    reached = []
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", int(port))),
        (socket.AF_INET6, ("::1", int(port))),
        (socket.AF_UNIX, "\0" + name),
    ):
        with contextlib.suppress(OSError), socket.socket(family) as link:
            link.settimeout(3)
            link.connect(address)
            reached.append(str(family.name))
    report(places, {"reached": reached})


def read(places: Places, words: list[str]) -> None:
    """Read files, each as text; null for one that cannot be read."""
    found: dict[str, str | None] = {}
    for word in words:
        try:
            found[word] = Path(word).read_text("utf-8", "replace")
        except OSError:
            found[word] = None
    report(places, {"read": found})


def end(places: Places, words: list[str]) -> None:
    """Try to end the process with a number; report whether the kernel took it."""
    done = attempt("end", partial(os.kill, int(words[0]), signal.SIGKILL)) if int(words[0]) != os.getpid() else []
    report(places, {"done": done})


def change(places: Places, words: list[str]) -> None:
    """Try everything that would change the files and folders of these paths; report what worked."""
    done = []
    for word in words:
        path = Path(word)
        inside = [path / "medperf-new"] if path.is_dir() else []
        files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
        for file in inside:
            done += attempt(f"create {file}", file.touch)
            done += attempt(f"link {file}.link", partial(Path(f"{file}.link").symlink_to, "x"))
            done += attempt(f"mkdir {file}.folder", Path(f"{file}.folder").mkdir)
        for file in files[:5]:
            done += attempt(f"append {file}", partial(append, file))
            done += attempt(f"chmod {file}", partial(file.chmod, 0o600))
            done += attempt(f"rename {file}", partial(file.rename, f"{file}.new"))
            done += attempt(f"remove {file}", file.unlink)
    report(places, {"done": done})


def append(file: Path) -> None:
    """Write one byte more."""
    with file.open("ab", buffering=0) as stream:
        stream.write(b"x")


def attempt(what: str, act: Callable[[], object]) -> list[str]:
    """``what`` in a list if it could be done."""
    try:
        act()
    except (OSError, ValueError):
        return []
    return [what]


def privileges(places: Places, words: list[str]) -> None:
    """Try to become root and to do what only root may do; report what worked."""
    libc = ctypes.CDLL(None, use_errno=True)
    plain = os.getuid() != 0  # root of a user namespace of its own is nobody outside
    out, hostname = places["out"].encode(), b"medperf-other"
    tries: dict[str, Callable[[], bool]] = {
        "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0,
        "a writable root": lambda: libc.mount(None, b"/", None, MS_REMOUNT | MS_BIND, None) == 0,
        "a bind mount": lambda: libc.mount(out, b"/mnt", None, MS_BIND, None) == 0,
        "umount": lambda: any(libc.umount2(each, MNT_DETACH) == 0 for each in (b"/tmp", b"/proc/kcore", b"/proc/keys")),
        "a mount namespace": lambda: libc.unshare(CLONE_NEWNS) == 0,
        "the first process's namespaces": lambda: enter(libc, "/proc/1/ns"),
        "a host's name": lambda: libc.sethostname(hostname, len(hostname)) == 0,
        "the kernel's log": lambda: libc.klogctl(SYSLOG_READ_ALL, ctypes.create_string_buffer(64), 64) > 0,
        "a higher priority": partial(does, os.setpriority, os.PRIO_PROCESS, 0, -5),
        "another owner": lambda: plain and does(os.chown, places["out"], 0, 0),
        "a user namespace": lambda: libc.unshare(CLONE_NEWUSER) == 0,
        "a user namespace by clone": lambda: by_clone(libc, CLONE, CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0),
        "a user namespace by clone3": lambda: by_clone(libc, CLONE3, clone_arguments(CLONE_NEWUSER), CLONE_ARGUMENTS),
        "a device": partial(does, os.mknod, Path(places["out"], "device"), stat.S_IFBLK | 0o600, os.makedev(7, 0)),
        "a device of characters": partial(does, os.mknod, "/tmp/device", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        "chroot": partial(does, os.chroot, "/"),
        "the kernel's settings": lambda: os.open("/proc/sys/kernel/core_pattern", os.O_RDWR) >= 0,
        "root's groups": lambda: plain and does(os.setgroups, [0]),
        "setuid": lambda: plain and does(os.setuid, 0),
        "a set-user-ID program": lambda: plain and by_program(),
    }
    report(places, {"done": [what for what, act in tries.items() if in_child(act)]})


def calls(places: Places, words: list[str]) -> None:
    """Ask the kernel for each ``NUMBER:ARGUMENT``; report the number of the error, 0 for none."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = {}
    for word in words:
        number, first = map(int, word.split(":"))
        child = os.fork()
        if child == 0:
            done = libc.syscall(number, first, 0, 0, 0, 0, 0)
            os._exit(ctypes.get_errno() if done < 0 else 0)
        found[word] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    report(places, {"errors": found})


def does(act: Callable[..., object], *words: object) -> bool:
    """True once it is done; raises OSError if it cannot be."""
    act(*words)
    return True


CLONE_ARGUMENTS = 64
"""Bytes of clone3's arguments in their first version (clone(2))."""


def clone_arguments(flags: int) -> Any:
    """Those of clone3: eight numbers, of which only the flags and the signal at the end are given."""
    return (ctypes.c_uint64 * (CLONE_ARGUMENTS // 8))(flags, 0, 0, 0, signal.SIGCHLD)


def by_clone(libc: Any, number: int, *words: Any) -> bool:
    """Whether a child could be made by this system call; it ends at once."""
    child = libc.syscall(number, *words) if number else -1
    if child == 0:
        os._exit(0)
    if child > 0:
        os.waitpid(child, 0)
    return bool(child > 0)


def enter(libc: Any, folder: str) -> bool:
    """Whether one of the namespaces in a folder could be entered."""
    done = False
    for path in Path(folder).iterdir():
        with path.open("rb") as stream:
            done = done or libc.setns(stream.fileno(), 0) == 0
    return done


def by_program() -> bool:
    """Whether the image's set-user-ID copy of ``cat`` ran as root."""
    shown = subprocess.run([HERE / "suid-cat", "/proc/self/status"], capture_output=True, text=True, check=False).stdout
    return any(line.split()[2] == "0" for line in shown.splitlines() if line.startswith("Uid:"))


def in_child(act: Callable[[], bool]) -> bool:
    """Do something in a process of its own; whether it succeeded."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if act() else 1)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def leave(places: Places, words: list[str]) -> None:
    """End with an exit code."""
    sys.exit(int(words[0]))


def die(places: Places, words: list[str]) -> None:
    """End by a signal, in a child of which the shell's convention is told if this is the first process."""
    number = int(words[0])
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(0.2)
    sys.exit(128 + number)  # the first process of a container cannot be ended by a signal of its own


def talk(places: Places, words: list[str]) -> None:
    """Write numbered lines to both outputs, bytes that are no text, and an end without a line's end."""
    for number in range(60):
        os.write(1 + number % 2, f"<{number}>\n".encode())
    os.write(1, b"\x1b[31mcolour\xff\x07\n")
    os.write(1, b"no end")


def flood(places: Places, words: list[str]) -> None:
    """Write this many bytes, with long lines, and then a short one."""
    line = b"x" * 65535 + b"\n"
    for _ in range(int(words[0]) // len(line)):
        written = 0
        while written < len(line):
            written += os.write(1, line[written:])
    say("the end")


def linger(places: Places, words: list[str]) -> None:
    """Say "ready" and go on for a while, with a child in another session; both ignore polite requests."""
    Path(places["out"], "mine").touch()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
    else:
        say("ready")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        time.sleep(0.05)


def eat(places: Places, words: list[str]) -> None:
    """Use this much memory in each of so many processes and hold it; fails if one did not live through it."""
    size, number = int(words[0]), int(words[1])
    children = []
    for _ in range(number - 1):
        child = os.fork()
        if child == 0:
            hold(size)
            os._exit(0)
        children.append(child)
    hold(size)
    sys.exit(1 if any(os.waitpid(child, 0)[1] for child in children) else 0)


def hold(size: int) -> None:
    """Touch memory step by step, then keep it long enough for a watchdog to see it."""
    kept = []
    for _ in range(size // STEP):
        kept.append(b"\1" * STEP)
        time.sleep(0.01)
    time.sleep(1.5)


def fork(places: Places, words: list[str]) -> None:
    """Start this many children at most; report how many there could be at once, if nobody minds for a while."""
    children = []
    with contextlib.suppress(OSError):
        for _ in range(int(words[0])):
            child = os.fork()
            if child == 0:
                time.sleep(PATIENCE)
                os._exit(0)
            children.append(child)
    time.sleep(PATIENCE - 1 if len(children) >= int(words[1]) else 0.1)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    report(places, {"children": len(children)})


def burn(places: Places, words: list[str]) -> None:
    """Use all CPUs that can be had for some seconds, with so many processes; report the share that was had."""
    seconds, number = float(words[0]), int(words[1])
    begin = time.monotonic()
    children = []
    for _ in range(number):
        child = os.fork()
        if child == 0:
            while time.monotonic() < begin + seconds:
                sum(range(1000))
            os._exit(0)
        children.append(child)
    say("ready")
    for child in children:
        os.waitpid(child, 0)
    used = os.times()
    spent = used.children_user + used.children_system
    report(places, {"cpus": spent / (time.monotonic() - begin), "quota": quota()})


def quota(process: str = "self") -> float | None:
    """How many CPUs the kernel's control group gives to a process at most, -1 for all; None if it cannot be seen."""
    groups = dict(line.split(":", 2)[1:] for line in lines(f"/proc/{process}/cgroup") if line.count(":") >= 2)
    for names, own in groups.items():
        if names and "cpu" not in names.split(","):
            continue
        for name in [names, "cpu"] if names else ["."]:
            top = Path("/sys/fs/cgroup", name)
            # a container of its own sees its group at the top; another one sees all of the host's groups
            folder = next((each for each in (top / own.lstrip("/"), top) if each.is_dir()), top)
            found = " ".join(
                word for file in ("cpu.cfs_quota_us", "cpu.cfs_period_us") for word in lines(str(folder / file))
            )
            found = found or " ".join(lines(str(folder / "cpu.max")))
            if len(found.split()) == 2:
                most, period = found.split()
                return -1.0 if most in ("-1", "max") else int(most) / int(period)
    return None


def fill(places: Places, words: list[str]) -> None:
    """Write this many bytes at most to a new file in a folder; report how many it took."""
    written, path = 0, Path(words[0], "medperf-fill")
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as stream:
        while written < int(words[1]):
            written += stream.write(b"\1" * MIB)
    with contextlib.suppress(OSError):
        path.unlink()
    report(places, {"written": written})


def scratch(places: Places, words: list[str]) -> None:
    """Leave a file in the task's scratch folder; report whether one was there, and whether home is writable."""
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    before = (folder / "medperf-scratch").exists()
    (folder / "medperf-scratch").write_text("from a task")
    report(places, {"before": before, "home": os.access(os.environ.get("HOME", "/"), os.W_OK)})


def copy(places: Places, words: list[str]) -> None:
    """Copy each volume called ``from_NAME`` to the one called ``to_NAME``."""
    for label in [label for label in places if label.startswith("from_")]:
        source, target = Path(places[label]), Path(places[label.replace("from_", "to_", 1)])
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copyfile)
        else:
            target.write_bytes(source.read_bytes())


def mess(places: Places, words: list[str]) -> None:
    """Leave no plain files in the output: links out of it, a pipe, a set-user-ID program, folders that are shut."""
    out, secret = Path(places["out"]), words[0]
    (out / "link").symlink_to(secret)
    (out / "folder-link").symlink_to(Path(secret).parent)
    (out / "dangling").symlink_to("nowhere")
    (out / "round").symlink_to("round")
    os.mkfifo(out / "pipe")
    (out / "suid").write_bytes(b"#!/bin/sh\n")
    (out / "suid").chmod(0o6755)
    (out / "deep" / "er").mkdir(parents=True)
    (out / "deep" / "er" / "file").write_text("x")
    (out / "shut").mkdir()
    (out / "shut" / "file").write_text("x")
    Path(out, "not\udcfftext").mkdir()
    (out / "shut" / "file").chmod(0)
    (out / "shut").chmod(0)
    with socket.socket(socket.AF_UNIX) as listener, contextlib.suppress(OSError):
        os.chdir(out)
        listener.bind("socket")


VERBS: dict[str, Callable[[Places, list[str]], None]] = {
    verb.__name__: verb
    for verb in (
        *(facts, own, connect, read, end, change, privileges, calls, leave, die, talk, flood, linger),
        *(eat, fork, burn, fill, scratch, copy, mess),
    )
}


def main(words: list[str]) -> None:
    """Find the volumes and the verb, and do it."""
    # one style of manifests puts the task's name before the volumes, the other after them
    places = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    verb, *arguments = [word for word in words if not (word.startswith("--") and "=" in word)]
    VERBS[verb](places, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])

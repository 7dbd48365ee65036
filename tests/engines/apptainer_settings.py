"""The settings inside the Apptainer package that is installed here. Nothing outside the unpacked package is changed."""

from __future__ import annotations

import json
import re
from pathlib import Path

# fmt: off
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)
# fmt: on
"""Their names by number (capabilities(7))."""
NEW_CALLS = (
    "clone3",
    "close_range",
    "epoll_pwait2",
    "faccessat2",
    "fchmodat2",
    "futex_waitv",
    "openat2",
    "rseq",
)
"""System calls that a current C library makes, and that are younger than the profile."""


def apply(tree: Path) -> None:
    """Write the settings for this machine into an unpacked package."""
    etc = tree / "etc/apptainer"
    only_network_none(tree)
    allow_new_calls(etc / "seccomp-profiles/default.json")
    if not Path("/run/systemd/system").is_dir():
        put(etc / "apptainer.conf", "systemd cgroups", "no")
    have, missing = root_capabilities(
        Path("/proc/self/status").read_text(), int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    )
    if missing:  # it would ask the kernel for all of them, and end there
        put(etc / "apptainer.conf", "root default capabilities", "file")
        listed = {"users": {"root": have}, "groups": {}}
        (etc / "capability.json").write_text(json.dumps(listed, indent=1) + "\n")


def put(path: Path, key: str, value: str) -> None:
    """Change one setting of apptainer.conf; one that is not there is added."""
    text, count = re.subn(rf"^{re.escape(key)} *=.*$", f"{key} = {value}", path.read_text(), flags=re.MULTILINE)
    path.write_text(text if count else f"{text.rstrip()}\n{key} = {value}\n")


def only_network_none(tree: Path) -> None:
    """Take out the networks that make a bridge and firewall rules; `--network none` needs no file."""
    listed = tree / "DEBIAN/conffiles"
    gone = [f"/{path.relative_to(tree)}" for path in tree.glob("etc/apptainer/network/*.conflist")]
    for name in gone:
        (tree / name[1:]).unlink()
    listed.write_text("".join(f"{line}\n" for line in listed.read_text().splitlines() if line not in gone))


def allow_new_calls(path: Path) -> None:
    """Add the system calls that the seccomp profile does not know."""
    profile = json.loads(path.read_text())
    known = {name for rule in profile["syscalls"] for name in rule["names"]}
    if wanted := [name for name in NEW_CALLS if name not in known]:
        profile["syscalls"].append({"names": wanted, "action": "SCMP_ACT_ALLOW", "args": []})
        path.write_text(json.dumps(profile, indent=1) + "\n")


def root_capabilities(status: str, last: int) -> tuple[list[str], list[str]]:
    """The capabilities that root can have here, and those it cannot.

    Args:
        status: the text of /proc/self/status.
        last: the number of the last capability that the kernel knows.
    """
    found = re.search(r"^CapBnd:\s*([0-9a-f]+)$", status, re.MULTILINE)
    bounds = int(found[1], 16) if found else 0
    have: list[str] = []
    missing: list[str] = []
    for number, name in enumerate(CAPABILITIES[: last + 1]):
        (have if bounds >> number & 1 else missing).append(f"CAP_{name}")
    return have, missing

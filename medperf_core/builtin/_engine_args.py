"""Reading the ``docker run`` options that authors of MLCubes wrote into ``cpu_args``, ``gpu_args`` and ``env_args``.

Three wishes are understood: the size of /dev/shm, GPUs, and variables. Everything else is the site's to decide; it is
ignored, and the reader is told what and why.
"""

from __future__ import annotations

import attrs

from medperf_core.builtin._manifests import Reading, shown
from medperf_core.errors import UsageError
from medperf_core.plugin import Gpus

_WIDENS = "it would widen the isolation of the task"
_MOUNTS = "the site alone decides what is mounted"
_LIMITS = "the site sets the limits of a task"
_FILES = "a manifest cannot have files of this machine read or written"
_NETWORK = "tasks run without network"
_USER = "the site decides as whom a task runs"
_NOT_KNOWN = "it is not understood"

_SHORT = {
    "e": "env",
    "v": "volume",
    "u": "user",
    "m": "memory",
    "p": "publish",
    "P": "publish-all",
    "w": "workdir",
    "h": "hostname",
    "c": "cpu-shares",
    "l": "label",
    "a": "attach",
    "i": "interactive",
    "t": "tty",
    "d": "detach",
}
_WITHOUT_VALUE = frozenset(
    {
        "privileged",
        "rm",
        "init",
        "read-only",
        "interactive",
        "tty",
        "detach",
        "no-healthcheck",
        "oom-kill-disable",
        "publish-all",
        "sig-proxy",
        "disable-content-trust",
        "quiet",
        "nv",
        "rocm",
    }
)
_REASONS = {
    _WIDENS: (
        "privileged",
        "ipc",
        "pid",
        "uts",
        "userns",
        "cgroupns",
        "cgroup-parent",
        "security-opt",
        "cap-add",
        "device",
        "device-cgroup-rule",
        "group-add",
        "sysctl",
        "runtime",
    ),
    _MOUNTS: ("volume", "mount", "tmpfs", "volumes-from", "volume-driver", "mount_opts", "read-only"),
    _LIMITS: (
        "memory",
        "memory-swap",
        "memory-reservation",
        "cpus",
        "cpu-shares",
        "cpuset-cpus",
        "cpuset-mems",
        "cpu-quota",
        "cpu-period",
        "pids-limit",
        "ulimit",
        "oom-kill-disable",
        "oom-score-adj",
        "storage-opt",
        "shm",
    ),
    _FILES: ("env-file", "label-file", "cidfile"),
    _NETWORK: (
        "network",
        "net",
        "network-alias",
        "publish",
        "publish-all",
        "expose",
        "add-host",
        "dns",
        "dns-option",
        "dns-search",
        "link",
        "ip",
        "ip6",
        "mac-address",
        "hostname",
    ),
    _USER: ("user",),
}
_REASON_OF = {name: reason for reason, names in _REASONS.items() for name in names}


@attrs.define
class EngineWishes:
    """What options asked for and a task may have.

    Attributes:
        shm_size: size of /dev/shm as written, such as ``2g``.
        gpus: as ``Gpus.parse`` reads it.
        environment: variables.
    """

    shm_size: str | None = None
    gpus: str | None = None
    environment: dict[str, str] = attrs.field(factory=dict)


def read_engine_args(reading: Reading, value: object, place: str) -> EngineWishes:
    """What options written as one line or as a list of words ask for; the rest becomes notes."""
    wishes = EngineWishes()
    words = list(reading.words(value, place))
    while words:
        word = words.pop(0)
        for name, item in _options(word, words):
            _take(reading, wishes, place, name, item)
    return wishes


def _options(word: str, rest: list[str]) -> list[tuple[str, str | None]]:
    """The options that one word holds; takes a value from the following words where there must be one."""
    if word.startswith("--") and len(word) > 2:
        name, separator, value = word[2:].partition("=")
        if separator:
            return [(name, value)]
        return [(name, None if name in _WITHOUT_VALUE else _value(rest))]
    if word.startswith("-") and len(word) > 1:
        for index, letter in enumerate(word[1:], 1):
            name = _SHORT.get(letter, letter)
            if name in _WITHOUT_VALUE:
                continue
            glued = word[index + 1 :].removeprefix("=")
            flags: list[tuple[str, str | None]] = [(_SHORT.get(flag, flag), None) for flag in word[1:index]]
            return [*flags, (name, glued or _value(rest))]
        return [(_SHORT.get(flag, flag), None) for flag in word[1:]]
    return [("", word)]


def _value(rest: list[str]) -> str | None:
    return rest.pop(0) if rest and not rest[0].startswith("-") else None


def _take(reading: Reading, wishes: EngineWishes, place: str, name: str, value: str | None) -> None:
    if name == "shm-size" and value:
        wishes.shm_size = reading.shm_size(value, place)
    elif name == "gpus" and value and _is_gpus(value.strip("\"'")):
        wishes.gpus = value.strip("\"'")
    elif name == "runtime" and value == "nvidia":
        wishes.gpus = wishes.gpus or "all"
    elif name == "env" and value and "=" in value:
        variable, _, content = value.partition("=")
        reading.variable(wishes.environment, variable, content, place)
    elif name == "env" and value:
        reading.note(f"{place}: the variable {shown(value)} is ignored: its value is to be taken from the machine.")
    else:
        reason = _REASON_OF.get(name, _NOT_KNOWN)
        if name == "ipc":
            reason += "; for more shared memory write --shm-size"
        option = f"--{name}" if name else ""
        written = f"{option}={value}" if option and value else option or str(value)
        reading.note(f"{place}: ignored: {shown(written)}, because {reason}.")


def _is_gpus(value: str) -> bool:
    try:
        Gpus.parse(value)
    except UsageError:
        return False
    return True

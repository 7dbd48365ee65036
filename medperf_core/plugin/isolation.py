"""The guarantees that a task runs under, and how the person at a site waives one by name.

Required guarantees are given or the task is refused before anything starts. Limits are the engine's where it can,
else a watchdog's (``polled``), refused only if neither works.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import attrs

from medperf_core.entities.image import ImageIdentity
from medperf_core.errors import IsolationError, UsageError


class Guarantee(StrEnum):
    """What every task is promised unless waived."""

    NETWORK = "network"
    """No network interface but its own loopback."""
    MOUNTS = "mounts"
    """Nothing of the host's files but what was mounted; a root file system that cannot be written."""
    READ_ONLY_INPUTS = "read-only-inputs"
    """Inputs cannot be changed."""
    PRIVILEGES = "privileges"
    """Never root on the host, no capabilities, no new privileges, system calls filtered."""


class Limit(StrEnum):
    """What a task may use at most."""

    MEMORY = "memory"
    PROCESSES = "processes"
    CPU = "cpu"
    TIME = "time"
    DISK = "disk"


class Enforcement(StrEnum):
    """Who holds a limit."""

    ENGINE = "engine"
    POLLED = "polled"
    NONE = "none"


class Condition(StrEnum):
    """What a runner may be able to make different for a task, to find out what would break on another site."""

    USER = "user"
    """Runs as the account in ``TaskRequest.user``, with outputs that it can write and the caller can remove."""
    TMP_SIZE = "tmp-size"
    """Holds /tmp to ``Resources.tmp_size``."""
    WORKING_DIR = "working-dir"
    """Starts in ``TaskRequest.working_dir``."""


NO_ISOLATION = "no-isolation"
UNSIGNED = "unsigned"
OLDER_BUNDLE = "older-bundle"

WAIVERS: dict[str, str] = {
    NO_ISOLATION: "run without any isolation: the task can do all that you can",
    "no-network-isolation": "run although the network cannot be cut off",
    "no-mount-isolation": "run although other files of this machine can be seen or the root file system written",
    "writable-inputs": "run although inputs could be changed",
    "more-privileges": "run although privileges cannot be dropped",
    "no-memory-limit": "run although memory cannot be limited",
    "no-process-limit": "run although the number of processes cannot be limited",
    "no-cpu-limit": "run although the use of CPUs cannot be limited",
    "no-time-limit": "run although the time cannot be limited",
    "plain-http": "fetch over http without encryption from other machines",
    UNSIGNED: "load and use a bundle that nobody signed",
    OLDER_BUNDLE: "load a bundle that is older than the one that was loaded of the same maker and benchmark",
}
"""Every name that ``--allow`` takes, with its meaning. A name may be followed by ``=`` and an image identity
(``no-isolation=source:sha256:...``); it then holds for that image only."""

_GUARANTEE_WAIVERS = {
    Guarantee.NETWORK: "no-network-isolation",
    Guarantee.MOUNTS: "no-mount-isolation",
    Guarantee.READ_ONLY_INPUTS: "writable-inputs",
    Guarantee.PRIVILEGES: "more-privileges",
}
_LIMIT_WAIVERS = {
    Limit.MEMORY: "no-memory-limit",
    Limit.PROCESSES: "no-process-limit",
    Limit.CPU: "no-cpu-limit",
    Limit.TIME: "no-time-limit",
}


@attrs.frozen
class Waiver:
    """A waiver as it was given.

    Attributes:
        name: one of ``WAIVERS``.
        image: the only image that it holds for; None for all.
    """

    name: str
    image: ImageIdentity | None = None

    @classmethod
    def parse(cls, text: str) -> Waiver:
        """Read ``NAME`` or ``NAME=KIND:sha256:HEX``.

        Raises:
            UsageError: unknown name; the message lists the known ones.
        """
        name, equals, image = text.partition("=")
        if name not in WAIVERS:
            raise UsageError(
                f"{name!r} is not something that can be allowed.", hint=f"Known names: {', '.join(WAIVERS)}."
            )
        return cls(name, ImageIdentity.parse(image) if equals else None)

    def __str__(self) -> str:
        return f"{self.name}={self.image}" if self.image else self.name


@attrs.frozen
class Capabilities:
    """What a runner found by probing that it can give on this machine.

    Attributes:
        engine: name and version, such as ``docker 20.10.24``.
        guarantees: those it gives.
        limits: who holds each limit.
        gpus: whether GPUs can be handed to a task.
        notes: what the person at the site should know, one sentence each.
        conditions: those that it can make; the core asks for no others.
    """

    engine: str
    guarantees: frozenset[Guarantee]
    limits: dict[Limit, Enforcement] = attrs.field(factory=dict)
    gpus: bool = False
    notes: tuple[str, ...] = ()
    conditions: frozenset[Condition] = frozenset()


def check_isolation(
    capabilities: Capabilities,
    images: Iterable[ImageIdentity],
    waivers: Iterable[Waiver],
    limits: Iterable[Limit] = (),
) -> tuple[str, ...]:
    """Refuse a task whose guarantees cannot be given here and were not waived.

    Args:
        capabilities: of the runner, as probed.
        images: identities of the image that is to run; a waiver with an identity holds if it is one of them.
        waivers: what the person at the site allowed.
        limits: the limits that the task must be held to.

    Returns:
        The waivers that were needed, by name, for the record of the run.

    Raises:
        IsolationError: at least one guarantee is missing; all are listed with the names that would waive them.
    """
    identities = set(images)
    given = {waiver.name for waiver in waivers if waiver.image is None or waiver.image in identities}
    missing = {_GUARANTEE_WAIVERS[need] for need in Guarantee if need not in capabilities.guarantees}
    missing |= {
        _LIMIT_WAIVERS[limit]
        for limit in limits
        if limit in _LIMIT_WAIVERS and capabilities.limits.get(limit, Enforcement.NONE) is Enforcement.NONE
    }
    if not missing:
        return ()
    if NO_ISOLATION in given:
        return (NO_ISOLATION,)
    refused = sorted(missing - given)
    if refused:
        everything = not capabilities.guarantees
        ask = f"--allow {NO_ISOLATION}" if everything else " ".join(f"--allow {name}" for name in refused)
        meaning = WAIVERS[NO_ISOLATION] if everything else "; ".join(WAIVERS[name] for name in refused)
        raise IsolationError(
            f"{capabilities.engine} cannot keep this task closed ({', '.join(refused)}); nothing was started.",
            hint=f"If you trust this code on this machine, add {ask} (that means: {meaning}).",
        )
    return tuple(sorted(missing))

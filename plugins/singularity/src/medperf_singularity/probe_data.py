"""What an engine was found to be able to do on this machine."""

from __future__ import annotations

import attrs

from medperf_core.plugin import Guarantee, Limit


@attrs.frozen
class Ability:
    """What an engine can do here, as a container saw it from inside.

    Attributes:
        guarantees: those that were found to hold.
        network: whether the network can be cut off; else it is not asked for, and the guarantee is missing.
        seccomp: whether system calls can be filtered; else it is not asked for, and the guarantee is missing.
        limits: those that the engine holds by control groups.
        sized: whether what it keeps in memory for a task can be given a size.
        problems: what did not work, in the engine's words, by the name of what was tried.
    """

    guarantees: frozenset[Guarantee]
    network: bool
    seccomp: bool
    limits: frozenset[Limit]
    sized: bool
    problems: tuple[tuple[str, str], ...] = ()

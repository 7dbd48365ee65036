"""The test of runners that give tasks the contract's own filter of system calls, ``medperf_core.plugin.seccomp``."""

from __future__ import annotations

import errno
import os

import pytest

from medperf_core.plugin import Guarantee
from medperf_core.plugin.testing.runner_kit import RunnerKit

NEW_USER = 0x10000000
CALLS = {
    "getppid": ((110, 173), 0, 0),
    "clone into a user namespace": ((56, 220), NEW_USER | 17, errno.ENOSYS),
    "clone3": ((435, 435), 0, errno.ENOSYS),
    "socket to the host of a virtual machine": ((41, 198), 40, errno.ENOSYS),
    "unshare": ((272, 97), NEW_USER, errno.EPERM),
    "io_uring_setup": ((425, 425), 1, errno.EPERM),
    "ptrace": ((101, 117), 0, errno.EPERM),
    "keyctl": ((250, 219), 0, errno.EPERM),
    "open_tree": ((428, 428), 0, errno.EPERM),
    "one that nobody knows": ((1999, 1999), 0, errno.ENOSYS),
}
"""By name: their numbers on x86-64 and on AArch64, the first argument, and the error."""
MACHINES = ("x86_64", "aarch64")


class SystemCallTests:
    """For a subclass of ``RunnerContract`` to inherit besides, if its runner gives tasks that filter."""

    @pytest.mark.skipif(os.uname().machine not in MACHINES, reason="the numbers of its system calls are not known here")
    def test_the_contracts_filter_is_in_force(self, kit: RunnerKit) -> None:
        """Each call fails as the filter says, not as the kernel or the engine's own filter would."""
        kit.needs(Guarantee.PRIVILEGES)
        which = MACHINES.index(os.uname().machine)
        words = {name: f"{numbers[which]}:{argument}" for name, (numbers, argument, _) in CALLS.items()}
        found = kit.report("calls", *words.values())["errors"]
        assert {name: found[word] for name, word in words.items()} == {
            name: wanted for name, (*_, wanted) in CALLS.items()
        }

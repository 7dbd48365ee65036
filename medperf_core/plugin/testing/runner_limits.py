"""Tests of the limits: a task that wants more than it may have does not get it, and the outcome says who held it."""

from __future__ import annotations

from medperf_core.plugin import Enforcement, Limit, Resources
from medperf_core.plugin.testing.probe_program import quota
from medperf_core.plugin.testing.runner_kit import RunnerKit

MIB = 1 << 20
SPARE = 32
"""Processes and threads of the engine's own, which some engines count with the task's and have to allow for."""


class LimitTests:
    """See the module."""

    def test_memory_is_limited(self, kit: RunnerKit) -> None:
        """A task that takes too much is ended, and that is told."""
        kit.needs(Limit.MEMORY)
        outcome = kit.run("eat", str(256 * MIB), "1", resources=Resources(memory=96 * MIB)).outcome
        assert outcome.exit_code != 0
        assert outcome.out_of_memory

    def test_memory_is_that_of_all_processes(self, kit: RunnerKit) -> None:
        """Many that take a little each are too much, too."""
        kit.needs(Limit.MEMORY)
        outcome = kit.run("eat", str(48 * MIB), "4", resources=Resources(memory=96 * MIB)).outcome
        assert outcome.exit_code != 0

    def test_memory_within_the_limit_is_given(self, kit: RunnerKit) -> None:
        """A task that takes less than it may is left alone."""
        kit.needs(Limit.MEMORY)
        outcome = kit.run("eat", str(48 * MIB), "1", resources=Resources(memory=256 * MIB)).outcome
        assert outcome.exit_code == 0
        assert not outcome.out_of_memory

    def test_processes_are_limited(self, kit: RunnerKit) -> None:
        """A task does not get more at once, or is ended, and that is told."""
        kit.needs(Limit.PROCESSES)
        ran = kit.run("fork", "120", "40", resources=Resources(processes=40))
        if ran.outcome.too_many_processes:
            assert ran.outcome.exit_code != 0
        else:
            assert ran.report["children"] < 40 + SPARE

    def test_cpu_is_limited(self, kit: RunnerKit) -> None:
        """A tenth of one CPU for eight busy processes is far less than a third of it."""
        kit.needs(Limit.CPU)
        seen: list[float | None] = []
        kit.heard.when_ready = lambda: seen.extend(quota(str(process)) for process in kit.processes())
        report = kit.report("burn", "1.5", "8", resources=Resources(cpus=0.1))
        assert report["cpus"] < 0.35
        known = [each for each in (report["quota"], *seen) if each is not None]
        if kit.capabilities.limits[Limit.CPU] is Enforcement.ENGINE and known:
            # a busy machine keeps every task small: where the kernel's own word can be seen, it has to be the same
            assert [each for each in known if 0 < each < 0.2], known

    def test_disk_is_limited(self, kit: RunnerKit) -> None:
        """A task's own scratch folder takes no more than it may."""
        kit.needs(Limit.DISK)
        assert kit.report("fill", "/tmp", str(64 * MIB), resources=Resources(tmp_size=8 * MIB))["written"] <= 8 * MIB

    def test_limits_are_recorded(self, kit: RunnerKit) -> None:
        """With who holds them, as the capabilities say it."""
        asked = Resources(memory=512 * MIB, cpus=1.0, processes=200)
        outcome = kit.run("leave", "0", resources=asked, time_limit=60.0).outcome
        declared = kit.capabilities.limits
        for limit in (Limit.MEMORY, Limit.CPU, Limit.PROCESSES, Limit.TIME):
            if limit in declared and declared[limit] != "none":
                assert outcome.limits.get(limit, "").startswith(f"{declared[limit].value} "), limit
            else:
                assert limit not in outcome.limits

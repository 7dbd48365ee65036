"""The process runner passes the kit; what it does not promise is skipped by name."""

from __future__ import annotations

import pytest

from medperf_core.builtin.process import medperf_runners
from medperf_core.plugin import Enforcement, Limit, RunnerPlugin
from medperf_core.plugin.testing import RunnerContract
from medperf_core.plugin.testing.runner_kit import MakeSource, RunnerKit


class TestProcessRunner(RunnerContract):
    """As a stranger would test it."""

    @pytest.fixture
    def plugin(self) -> RunnerPlugin:
        return next(iter(medperf_runners()))

    @pytest.fixture
    def image(self) -> MakeSource:
        return lambda probe: probe.tree

    def test_this_is_all_that_is_promised(self, kit: RunnerKit) -> None:
        """A promise that is lost would only be skipped."""
        found = kit.capabilities
        assert found.guarantees == frozenset()
        polled = {limit for limit, who in found.limits.items() if who is Enforcement.POLLED}
        assert polled == {Limit.MEMORY, Limit.PROCESSES, Limit.CPU, Limit.TIME}
        assert found.conditions == frozenset()

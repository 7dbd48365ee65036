"""The process runner passes the kit; what it does not promise is skipped by name."""

from __future__ import annotations

import pytest

from medperf_core.builtin.process import medperf_runners
from medperf_core.plugin import RunnerPlugin
from medperf_core.plugin.testing import RunnerContract
from medperf_core.plugin.testing.runner_kit import MakeSource


class TestProcessRunner(RunnerContract):
    """As a stranger would test it."""

    @pytest.fixture
    def plugin(self) -> RunnerPlugin:
        return next(iter(medperf_runners()))

    @pytest.fixture
    def image(self) -> MakeSource:
        return lambda probe: probe.tree

"""The Singularity runner passes the kit, on the image that the kit makes."""

from __future__ import annotations

import pytest
from medperf_singularity.engine import Engine
from medperf_singularity.plugin import SingularitySettings, medperf_runners

from medperf_core.plugin import RunnerPlugin
from medperf_core.plugin.testing import RunnerContract
from medperf_core.plugin.testing.runner_kit import MakeSource


class TestSingularityRunner(RunnerContract):
    """As a stranger would test it."""

    @pytest.fixture
    def plugin(self) -> RunnerPlugin:
        return next(iter(medperf_runners()))

    @pytest.fixture
    def settings(self, engine: Engine) -> SingularitySettings:
        return SingularitySettings(program=str(engine.program), docker_host="none")

    @pytest.fixture
    def image(self) -> MakeSource:
        return lambda probe: probe.archive

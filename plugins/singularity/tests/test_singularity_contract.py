"""The Singularity runner passes the kit, on the image that the kit makes: as whoever runs this, and unprivileged."""

from __future__ import annotations

import pytest
from medperf_singularity.engine import Engine
from medperf_singularity.plugin import SingularitySettings, medperf_runners

from medperf_core.plugin import RunnerPlugin
from medperf_core.plugin.testing import RunnerContract
from medperf_core.plugin.testing.runner_kit import MakeSource
from medperf_core.plugin.testing.runner_syscalls import SystemCallTests
from tests.plugin.testing.as_account import NOT_PROMISED, find_account, needs_root, run_as

UNPROMISED = {
    "test_disk_is_limited": "disk",
    "test_a_place_cannot_break_a_volume[a line's end]": "volumes whose place in the container has a line's end",
    "test_user_is_the_one_that_was_asked_for": "user",
    "test_user_s_outputs_belong_to_the_caller": "user",
}
"""What the runner does not promise to an unprivileged account."""


class TestSingularityRunner(RunnerContract, SystemCallTests):
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


@needs_root
def test_an_unprivileged_account_is_promised_the_same(engine: Engine) -> None:
    account = find_account("medperf-test")
    found = run_as(
        account, f"{__file__}::TestSingularityRunner", variables={"MEDPERF_TEST_SINGULARITY": str(engine.program)}
    )
    assert found.skipped == {
        name: f"{NOT_PROMISED}{engine.name} does not promise {what}" for name, what in UNPROMISED.items()
    }
    names = {name.partition("[")[0] for name in found.passed | found.skipped.keys()}
    assert names == {name for name in dir(TestSingularityRunner) if name.startswith("test_")}

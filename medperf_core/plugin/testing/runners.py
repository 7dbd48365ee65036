"""``RunnerContract``: what every runner has to hold, on a real engine.

A runner's own tests subclass it, say how the runner is made and which form of the probe's image it takes, and inherit
all of its tests. See ``docs/plugins/conformance.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medperf_core.plugin import Runner, RunnerPlugin
from medperf_core.plugin.testing.common import check_descriptor, fill_in
from medperf_core.plugin.testing.probe_image import Probe
from medperf_core.plugin.testing.runner_conditions import ConditionTests
from medperf_core.plugin.testing.runner_isolation import IsolationTests
from medperf_core.plugin.testing.runner_kit import Kept, MakeRunner, MakeSource, RunnerKit, Traces
from medperf_core.plugin.testing.runner_limits import LimitTests
from medperf_core.plugin.testing.runner_prepare import PrepareTests
from medperf_core.plugin.testing.runner_run import RunTests
from medperf_core.plugin.testing.runner_stop import StopTests
from medperf_core.plugin.testing.runner_volumes import VolumeTests

__all__ = ["Probe", "RunnerContract"]


class RunnerContract(PrepareTests, RunTests, VolumeTests, StopTests, IsolationTests, LimitTests, ConditionTests):
    """Subclass it as ``Test...`` and give it the fixtures ``plugin`` and ``image``, of any scope.

    What the runner's ``capabilities()`` declare is tested by trying to break it from inside a task; what they do not
    is skipped by name.
    """

    @pytest.fixture
    def plugin(self) -> RunnerPlugin:
        """To be defined: the runner's descriptor."""
        fill_in("RunnerContract", "plugin", "the runner's RunnerPlugin")

    @pytest.fixture
    def image(self) -> MakeSource:
        """To be defined: the form of a ``Probe`` that the runner takes, such as ``lambda probe: probe.archive``."""
        fill_in("RunnerContract", "image", "a function that makes an ImageSource of a Probe")

    @pytest.fixture
    def settings(self, plugin: RunnerPlugin) -> Any:
        """May be defined: the runner's settings; by default those that nobody changed."""
        return plugin.settings()

    @pytest.fixture
    def make_runner(self, plugin: RunnerPlugin, settings: Any) -> MakeRunner:
        """Makes the runner of a context, as the core does it."""
        return lambda context: plugin.make(settings, context)

    @pytest.fixture
    def traces(self) -> Traces:
        """May be defined: names whatever the engine has of tasks and images now, such as containers.

        Processes, and the files in the folders that the runner was given, are looked at anyway.
        """
        return lambda: ()

    @pytest.fixture
    def kit(
        self,
        make_runner: MakeRunner,
        image: MakeSource,
        traces: Traces,
        medperf_probe: Probe,
        medperf_runner_kept: Kept,
        tmp_path: Path,
    ) -> Iterator[RunnerKit]:
        """What the tests work with."""
        yield RunnerKit(make_runner, image, traces, medperf_probe, medperf_runner_kept, tmp_path)

    def test_the_descriptor_is_usable(self, plugin: RunnerPlugin, make_runner: MakeRunner, kit: RunnerKit) -> None:
        """It can be selected, and makes a runner."""
        check_descriptor(plugin, RunnerPlugin)
        assert isinstance(make_runner(kit.context()), Runner)

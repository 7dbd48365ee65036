"""The kit catches Singularity runners that break one promise each, and nothing else of what stands beside it fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from medperf_singularity.plugin import SingularitySettings
from medperf_singularity.plugin import make as make_singularity

from medperf_core.entities.image import ImageSource
from medperf_core.plugin import BackendContext, Enforcement, Runner
from medperf_core.plugin.testing.probe_image import Probe
from medperf_core.plugin.testing.runner_kit import Kept
from tests.engines import require
from tests.plugin.testing.kit_suite import Given, check
from tests.plugin.testing.singularity_mutants import SINGULARITY_MUTANTS

CONTROLS = ("test_network_only_loopback_is_there", "test_privileges_there_are_none")
"""Of most mutants; both look at the same task."""


@pytest.fixture(scope="module")
def program() -> str:
    if os.geteuid() != 0:
        pytest.skip("only root has all that a runner can promise on every machine")
    return require("apptainer")["MEDPERF_TEST_APPTAINER"]


@pytest.fixture(scope="module")
def right(program: str, tmp_path_factory: pytest.TempPathFactory) -> Given:
    """The runner as it is, and the probe's image, which it converted once."""

    def make(context: BackendContext) -> Runner:
        return make_singularity(SingularitySettings(program=program, docker_host="none"), context)

    def archive(probe: Probe) -> ImageSource:
        return probe.archive

    probe = Probe(tmp_path_factory.mktemp("probe"))
    cache, temp = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("temp")
    runner = make(BackendContext(cache, temp))
    assert Enforcement.ENGINE in runner.capabilities().limits.values()
    return Given(make, archive, probe, shared=Kept(cache, temp, runner.prepare(probe.archive), probe.archive))


@pytest.mark.parametrize("name", SINGULARITY_MUTANTS)
def test_a_singularity_runner_that_is_open_is_caught(
    name: str, right: Given, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    change, caught = SINGULARITY_MUTANTS[name]
    change(monkeypatch)
    given = Given(right.make, right.image, right.probe, shared=right.shared)
    check(given, tmp_path, caught, [each for each in CONTROLS if each not in caught])

"""The kit's tests, run on a runner that breaks a promise: which of them fail, and which still pass."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.entities.image import ImageSource
from medperf_core.plugin import BackendContext, Runner, RunnerPlugin
from medperf_core.plugin.testing.probe_image import Probe
from medperf_core.plugin.testing.runner_kit import Kept

CONTROL = "test_a_prepared_image_is_plain_data"
SUITE = """
import pytest
from medperf_core.plugin.testing import RunnerContract


@pytest.fixture(scope="session")
def medperf_probe(given):
    return given.probe


@pytest.fixture(scope="session")
def medperf_runner_kept(given, tmp_path_factory):
    return given.kept(tmp_path_factory)


class TestMutant(RunnerContract):
    @pytest.fixture
    def plugin(self, given):
        return given.plugin

    @pytest.fixture
    def image(self, given):
        return given.image

    @pytest.fixture
    def traces(self, given):
        return given.traces
"""


@attrs.define(eq=False)
class Given:
    """What the suite under test gets, and what became of its tests.

    Attributes:
        shared: folders and an image that was prepared in them by a runner as it should be; None for one of its own.
    """

    make: Callable[[BackendContext], Runner]
    image: Callable[[Probe], ImageSource]
    probe: Probe
    traces: Callable[[], Collection[str]] = tuple
    shared: Kept | None = None
    outcomes: dict[str, str] = attrs.field(factory=dict)
    words: list[str] = attrs.field(factory=list)
    changes: dict[str, Any] = attrs.field(factory=dict)

    @property
    def plugin(self) -> RunnerPlugin:
        """The runner's descriptor, with the changes that are to be caught."""
        fields = {"name": "mutant", "summary": "breaks a promise", "api": RunnerPlugin.API, **self.changes}
        return RunnerPlugin(make=lambda settings, context: self.make(context), **fields)

    def kept(self, folders: pytest.TempPathFactory) -> Kept:
        if self.shared is None:
            return Kept(folders.mktemp("cache"), folders.mktemp("temp"))
        return Kept(self.shared.cache, self.shared.temp, self.shared.prepared, self.shared.source)

    @pytest.fixture(scope="session")
    def given(self) -> Given:
        return self

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2]
        if report.when == "call" or not report.passed:
            self.outcomes[name] = report.outcome
            self.words.append(f"{name}: {report.longrepr}")


def check(given: Given, folder: Path, caught: Collection[str], controls: Collection[str] = (CONTROL,)) -> None:
    """Run these tests of the kit: all of ``caught`` fail, the controls pass."""
    suite = folder / "test_mutant.py"
    suite.write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    wanted = [f"{suite}::TestMutant::{name}" for name in (*caught, *controls)]
    options = ["-q", "-c", str(folder / "pytest.ini"), f"--rootdir={folder}", f"--basetemp={folder / 'inner'}"]
    options += ["-p", "no:cacheprovider", "-p", "no:timeout", "-W", "ignore", "--tb=line", "--import-mode=importlib"]
    pytest.main([*options, *wanted], plugins=[given])
    expected = dict.fromkeys(caught, "failed") | dict.fromkeys(controls, "passed")
    assert given.outcomes == expected, "\n".join(given.words)

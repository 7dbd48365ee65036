"""Each kit passes a sound backend and catches every broken one, by the very tests that say so."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.plugin.testing import broken_executors, broken_packagers, broken_servers, broken_shares, broken_storages

MODULES = (broken_storages, broken_shares, broken_packagers, broken_servers, broken_executors)


class Watch:
    """Runs the named tests of each broken backend and all of the sound ones; keeps what became of them."""

    def __init__(self) -> None:
        self.ended: dict[str, dict[str, set[str]]] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        def wanted(item: Any) -> bool:
            return not item.cls.caught_by or item.originalname in item.cls.caught_by

        items[:] = [item for item in items if wanted(item)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        *_, kind, name = report.nodeid.split("::")
        outcome = report.outcome
        if report.skipped and "NotPromised" not in str(report.longrepr):
            outcome = "failed"
        if report.when == "call" or outcome != "passed":
            self.ended.setdefault(kind, {}).setdefault(name.partition("[")[0], set()).add(outcome)


@pytest.fixture(scope="module")
def runs() -> dict[ModuleType, Watch]:
    """What became of the modules that were run so far."""
    return {}


def run(module: ModuleType, runs: dict[ModuleType, Watch], folder: Path) -> Watch:
    """Run a module of backends once, in this process and apart from this project's settings."""
    if module not in runs:
        runs[module] = Watch()
        (folder / "pytest.ini").write_text("[pytest]\n")
        options = ["-p", "no:cacheprovider", "-p", "no:terminal", "--import-mode=importlib"]
        apart = ["-c", str(folder / "pytest.ini"), "--basetemp", str(folder / "temp"), "--noconftest"]
        pytest.main([*options, *apart, str(module.__file__)], plugins=[runs[module]])
    return runs[module]


def kinds(sound: bool) -> list[Any]:
    found = []
    for module in MODULES:
        for name, kind in vars(module).items():
            if name.startswith("Test") and sound != bool(kind.caught_by):
                label = f"{module.__name__.rpartition('.')[2]}-{name.removeprefix('Test')}"
                found.append(pytest.param(module, name, id=label))
    return found


@pytest.mark.parametrize(("module", "name"), kinds(sound=True))
def test_a_sound_backend_passes(module: ModuleType, name: str, runs: dict[ModuleType, Watch], tmp_path: Path) -> None:
    ended = run(module, runs, tmp_path).ended[name]
    assert len(ended) > 10
    assert {test for test, outcomes in ended.items() if "failed" in outcomes} == set()


@pytest.mark.parametrize(("module", "name"), kinds(sound=False))
def test_a_broken_backend_is_caught(
    module: ModuleType, name: str, runs: dict[ModuleType, Watch], tmp_path: Path
) -> None:
    ended = run(module, runs, tmp_path).ended[name]
    caught = {test for test, outcomes in ended.items() if "failed" in outcomes}
    assert caught == set(getattr(module, name).caught_by)

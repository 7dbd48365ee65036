"""The page on the conformance kits: its runner passes its test as it stands, and its lists are whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medperf_core.entities import ImageSource
from medperf_core.plugin import testing
from medperf_core.plugin.testing import RunnerContract
from medperf_core.plugin.testing.probe_image import Probe
from medperf_core.plugin.testing.promises import NotPromised, not_promised

from .pages import DOCS, blocks, rows

PAGE = DOCS / "plugins" / "conformance.md"


def test_the_runner_of_the_page_passes_its_own_test(tmp_path: Path) -> None:
    module, test, _ = blocks(PAGE, "python")
    (tmp_path / "medperf_plain.py").write_text(module.text)
    (tmp_path / "test_plain.py").write_text(test.text)
    command = blocks(PAGE, "shell")[1].text
    (output,) = blocks(PAGE, "text")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MEDPERF_", "PYTEST_"))}
    words = command.split()
    assert words.pop(0) == "python"
    done = subprocess.run(
        [sys.executable, *words, "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'temp'}"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [part for line in output.text.splitlines() for part in line.split("...") if part.strip()]
    assert [part for part in shown if part.strip() not in done.stdout] == [], done.stdout


def test_all_classes_are_listed() -> None:
    assert [row[0] for row in rows(PAGE, "class")] == sorted(
        testing.__all__,
        key=["RunnerContract", "PackagerContract", "StorageContract", "ServerContract", "ExecutorContract"].index,
    )
    for name in testing.__all__:
        assert isinstance(getattr(testing, name), type)


def test_all_forms_and_fixtures_are_listed(tmp_path: Path) -> None:
    probe = Probe(tmp_path)
    for row in rows(PAGE, "form"):
        assert isinstance(getattr(probe, row[0].removeprefix("probe.")), ImageSource)
    for row in rows(PAGE, "fixture"):
        assert hasattr(RunnerContract, row[0])


def test_the_skips_can_be_told_from_others() -> None:
    scope: dict[str, object] = {}
    exec(blocks(PAGE, "python")[2].text, scope)
    for reason, fine in ((NotPromised, True), (pytest.skip.Exception, False)):

        def skip(reason: type[BaseException] = reason) -> None:
            if reason is NotPromised:
                not_promised("plain", "network")
            raise reason("no engine")

        call = pytest.CallInfo.from_call(skip, when="call")
        assert scope["is_fine"](call) is fine  # type: ignore[operator]

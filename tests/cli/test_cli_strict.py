"""``medperf test run --strict``: what it prints, what it keeps, and how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

from medperf_core.errors import CheckFailedError

from .tutorial import Tutorial

STRICT = ("test", "run", "-b", "1", "-m", "medperf_tutorial/MODEL/mlcube", "--strict", "--allow", "no-isolation")


def make_random(folder: Path) -> None:
    program = folder / "medperf_tutorial" / "model_mlp" / "project" / "main.py"
    program.write_text(program.read_text().replace("predict(values)", "__import__('random').random()"))


def test_a_failed_check_is_shown_kept_and_ends_the_command(tutorial: Tutorial) -> None:
    make_random(tutorial.folder)
    done = tutorial.run(*STRICT, code=CheckFailedError.exit_code)
    assert "auc.value" in done.stdout
    assert re.search(r"^twice +failed +A second run", done.stdout, re.MULTILINE)
    assert re.search(r"^user +not-checked", done.stdout, re.MULTILINE)
    assert re.search(r"^labels +passed .* nothing$", done.stdout, re.MULTILINE)
    assert "1 of 8 strict checks failed: twice." in done.stderr
    assert "Next:" not in done.stderr
    found = re.search(r"medperf test view (\w{16})", done.stderr)
    assert found
    shown = tutorial.run("test", "view", found[1])
    assert "seeds of random numbers" in shown.stdout
    [finding] = [each for each in tutorial.json("test", "view", found[1])["findings"] if each["check"] == "twice"]
    assert finding["status"] == "failed" and finding["advice"]
    printed = tutorial.run(*STRICT, "--format", "json", code=CheckFailedError.exit_code)
    assert json.loads(printed.stdout)["findings"]


def test_a_model_that_passes(tutorial: Tutorial) -> None:
    done = tutorial.run(*STRICT)
    assert "The test passed" in done.stderr and "Next: medperf mlcube package" in done.stderr
    assert re.search(r"^twice +passed", done.stdout, re.MULTILINE)


def test_without_strict_nothing_is_checked(tutorial: Tutorial) -> None:
    done = tutorial.run(*(word for word in STRICT if word != "--strict"))
    assert "not-checked" not in done.stdout
    assert tutorial.json("test", "view")["findings"] == []

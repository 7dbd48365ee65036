"""What happens, on a terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from medperf_core.cli.progress import LiveDisplay, PlainDisplay, amount, display
from medperf_core.plugin.events import Notice, Progress, StepFinished, StepStarted, TaskLog

EVENTS = [
    StepStarted("Fetching weights"),
    Progress("Fetching weights", 5, 10),
    Progress("Fetching weights", 10, 10),
    StepFinished("Fetching weights", "reused"),
    StepStarted("infer"),
    TaskLog("infer", "case 1 \x1b[2J"),
    Notice("Read this."),
    Notice("Look out.", "warning"),
    StepFinished("infer"),
]


def test_elsewhere_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    shown = display(quiet=False)
    assert type(shown) is PlainDisplay
    for event in EVENTS:
        shown(event)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Fetching weights ...",
        "Fetching weights: reused",
        "infer ...",
        "  [infer] case 1 \\u001b[2J",
        "Read this.",
        "Warning: Look out.",
        "infer: done",
    ]


def test_quiet_shows_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    for shown in (PlainDisplay(quiet=True), LiveDisplay(quiet=True)):
        for event in EVENTS:
            shown(event)
        assert capsys.readouterr() == ("", "Warning: Look out.\n")


def test_long_transfers_tell_where_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("medperf_core.cli.progress.time.monotonic", lambda: now)
    shown = PlainDisplay()
    for second in range(12):
        now = float(second)
        shown(Progress("Fetching weights", second << 20, 12 << 20))
    assert capsys.readouterr().err.splitlines() == [
        "  Fetching weights: 5.0 of 12.0 MiB",
        "  Fetching weights: 10.0 of 12.0 MiB",
    ]


def test_amounts_have_units() -> None:
    assert amount(Progress("", 5, 10)) == "5 of 10 B"
    assert amount(Progress("", 512 << 10, 3 << 20)) == "0.5 of 3.0 MiB"
    assert amount(Progress("", 3 << 30)) == "3.0 GiB"
    assert amount(Progress("", 3, 7, "cases")) == "3 of 7 cases"


def test_a_terminal_gets_bars_and_standard_output_stays_clean(environment: dict[str, str]) -> None:
    code = """
from medperf_core.cli.progress import LiveDisplay, display
from medperf_core.plugin.events import *
shown = display(quiet=False)
assert type(shown) is LiveDisplay
for event in (StepStarted("Fetching weights"), Progress("Fetching weights", 5 << 20, 10 << 20),
              TaskLog("infer", "[bold]case 1[/bold]")):
    shown(event)
print("EARLY DATA", flush=True)
with shown.paused():
    print("DATA", flush=True)
shown(StepFinished("Fetching weights", "reused"))
shown.close()
print("MORE DATA")
"""
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(slave)
    shown = ""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk.decode()
    except OSError:
        pass  # that is how the end of a terminal looks
    os.close(master)
    assert (done.returncode, done.stdout) == (0, "EARLY DATA\nDATA\nMORE DATA\n")
    assert "Fetching weights" in shown and "5.0 of 10.0 MiB" in shown
    assert "[infer] [bold]case 1[/bold]" in shown
    assert "Fetching weights: reused" in shown

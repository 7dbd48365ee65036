"""What happens, on a terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from medperf_core.cli.pace import Pace, clock
from medperf_core.cli.progress import LiveDisplay, PlainDisplay, _described, amount, display, speed
from medperf_core.cli.text import fit
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
        "  Fetching weights: 5.0 of 12.0 MiB, 1.0 MiB/s, 0:07 left",
        "  Fetching weights: 10.0 of 12.0 MiB, 1.0 MiB/s, 0:02 left",
    ]


def test_amounts_have_units() -> None:
    assert amount(Progress("", 5, 10)) == "5 of 10 B"
    assert amount(Progress("", 512 << 10, 3 << 20)) == "0.5 of 3.0 MiB"
    assert amount(Progress("", 3 << 30)) == "3.0 GiB"
    assert amount(Progress("", 3, 7, "cases")) == "3 of 7 cases"


def test_rate_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    pace.note(0, 1 << 30)
    assert (pace.rate, pace.left(2 << 30)) == (None, None)
    pace.note(0.5, (1 << 30) + 50)
    assert pace.rate is None
    pace.note(2, (1 << 30) + 200)
    assert (pace.rate, pace.left((1 << 30) + 1200), pace.left(None)) == (100, 10, None)
    for second in range(3, 40):
        pace.note(second, (1 << 30) + 200)
    assert (pace.rate, pace.left(2 << 30)) == (0, None)
    pace.note(40, 10)
    assert pace.rate is None, "bytes that were forgotten count as some that came"
    pace.note(42, 30)
    assert pace.rate == 10


def test_rate_of_many_tellings_takes_little_room() -> None:
    pace = Pace()
    for step in range(100_000):
        pace.note(step / 1000, step * 1000)
    assert pace.rate == pytest.approx(1_000_000, rel=0.01)
    assert sys.getsizeof(pace._told) < 10_000


def test_speed_has_units() -> None:
    pace = Pace()
    for second in (0, 2):
        pace.note(second, second * 3 << 20)
    assert speed(Progress("", 6 << 20, 3 << 30), pace) == ", 3.0 MiB/s, 17:02 left"
    assert speed(Progress("", 6 << 20, 6 << 20), pace) == ", 3.0 MiB/s"
    assert speed(Progress("", 6 << 20), pace) == ", 3.0 MiB/s"
    assert speed(Progress("", 6 << 20, 3 << 30, "cases"), pace) == ""
    assert [clock(seconds) for seconds in (0.4, 59.6, 3599, 3600, 90_000, 1e6)] == [
        "0:00", "1:00", "59:59", "1:00:00", "25:00:00", "11 days",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [10, 25, 40, 60, 79])
def test_what_is_too_long_keeps_its_begin_and_its_end(width: int) -> None:
    text = f"Fetching s3://bucket/{'0123456789abcdef' * 4}/weights.tar.gz"
    shown = fit(text, width)
    assert len(shown) <= width
    assert shown.startswith(text[: width // 4])
    assert shown.endswith(text[-min(width // 3, 15) :])


def test_hashes_are_cut_before_anything_else() -> None:
    text = f"Fetching s3://bucket/{'0123456789abcdef' * 4}/weights.tar.gz"
    assert fit(text, 200) == text
    assert fit(text, 60) == "Fetching s3://bucket/012345…/weights.tar.gz"
    assert fit("wide 文字文字文字文字", 10).count("…") == 1


def test_a_narrow_terminal_shows_speed_and_time_left() -> None:
    what = f"Fetching s3://bucket/{'0123456789abcdef' * 4}/weights.tar.gz"
    for width in (80, 120):
        shown = "312.5 of 500.0 MiB, 100.7 MiB/s, 1:23:45 left"
        assert len(_described(what, shown, width)) + len(shown) <= width - 3


def test_a_terminal_gets_bars_and_standard_output_stays_clean(environment: dict[str, str]) -> None:
    code = """
import types
import medperf_core.cli.progress as progress
from medperf_core.cli.progress import LiveDisplay, display
time = progress.time = types.SimpleNamespace()
from medperf_core.plugin.events import *
shown = display(quiet=False)
assert type(shown) is LiveDisplay
times = iter((0.0, 2.0))
time.monotonic = lambda: next(times, 3.0)
for event in (StepStarted("Fetching weights"), Progress("Fetching weights", 1 << 20, 10 << 20),
              Progress("Fetching weights", 5 << 20, 10 << 20),
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
    assert "Fetching weights" in shown and "5.0 of 10.0 MiB, 2.0 MiB/s, 0:02 left" in shown
    assert "[infer] [bold]case 1[/bold]" in shown
    assert "Fetching weights: reused" in shown

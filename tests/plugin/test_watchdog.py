"""The watchdog on real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import attrs
import pytest

from medperf_core.plugin import Limit
from medperf_core.plugin.watchdog import Process, Watchdog, _used, descendants, pause_after, process

BUSY = "while True: pass"
FAMILY = """
import subprocess, sys
inner = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0); input()"
children = [subprocess.Popen([sys.executable, "-c", inner]) for _ in range(2)]
print("there", flush=True)
input()
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts Python programs; they are ended after the test, stopped or not."""
    started: list[subprocess.Popen[bytes]] = []

    def run(code: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(child)
        return child

    yield run
    for child in started:
        for pid in descendants(child.pid):
            os.kill(pid, signal.SIGKILL)
        child.communicate()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def state(pid: int) -> str:
    found = process(pid)
    assert found
    return found.state


def test_what_the_kernel_says_of_a_process(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    child = start("x = bytearray(50 << 20); print('there', flush=True); input()")
    assert child.stdout
    child.stdout.readline()
    found = process(child.pid)
    assert found is not None
    assert found.parent == os.getpid()
    assert 50 << 20 < found.resident < 200 << 20
    child.kill()
    until(lambda: state(child.pid) == "Z")
    child.wait()
    assert process(child.pid) is None


def test_descendants_are_found_at_any_depth(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    child = start(FAMILY)
    until(lambda: len(descendants(child.pid)) == 5)
    assert child.pid in descendants(child.pid)
    assert descendants(child.pid) < descendants(os.getpid())
    found = process(child.pid)
    assert found and descendants(child.pid, found.started) == descendants(child.pid)
    assert descendants(child.pid, found.started - 1) == set()  # of another one that had its number before
    child.kill()
    child.wait()
    assert descendants(child.pid) == set()


def test_memory_is_that_of_all_processes_together(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    children = [start("x = bytearray(60 << 20); print('there', flush=True); input()") for _ in range(2)]
    for child in children:
        assert child.stdout
        child.stdout.readline()
    pids = [child.pid for child in children]
    assert Watchdog(lambda: pids[:1], memory=100 << 20).check() is None
    assert Watchdog(lambda: pids, memory=400 << 20).check() is None
    watchdog = Watchdog(lambda: pids, memory=100 << 20)
    assert watchdog.peak_memory is None
    assert watchdog.check() is Limit.MEMORY
    assert watchdog.peak_memory is not None and watchdog.peak_memory > 120 << 20


def test_memory_that_processes_share_is_counted_once(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    child = start(
        "import os\nx = bytearray(60 << 20)\nfor _ in range(3):\n    if os.fork() == 0: break\n"
        "else: print('there', flush=True)\nos.read(0, 1)"
    )
    assert child.stdout
    child.stdout.readline()
    assert len(descendants(child.pid)) == 4
    assert sum(found.resident for pid in descendants(child.pid) if (found := process(pid))) > 240 << 20
    watchdog = Watchdog(lambda: descendants(child.pid), memory=150 << 20)
    assert watchdog.check() is None
    assert watchdog.peak_memory is not None and 60 << 20 < watchdog.peak_memory < 150 << 20


def test_too_many_processes(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    child = start(FAMILY)
    until(lambda: len(descendants(child.pid)) == 5)
    assert Watchdog(lambda: descendants(child.pid), processes=5).check() is None
    assert Watchdog(lambda: descendants(child.pid), processes=4).check() is Limit.PROCESSES


def test_processes_that_are_gone_break_no_limit() -> None:
    assert Watchdog(lambda: [2**22 + 1], memory=1, processes=0, cpus=0.1).check() is None


def test_a_busy_task_is_stopped_and_goes_on_when_its_share_is_right(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    child = start(BUSY)
    with Watchdog(lambda: [child.pid], cpus=0.3) as watchdog:
        for _ in range(2):
            until(lambda: watchdog.check() is None and state(child.pid) == "T")
            until(lambda: watchdog.check() is None and state(child.pid) != "T")


def test_a_task_within_its_share_is_never_stopped(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    child = start(BUSY)
    with Watchdog(lambda: [child.pid], cpus=2) as watchdog:
        for _ in range(30):
            assert watchdog.check() is None
            assert state(child.pid) != "T"
            time.sleep(0.01)


def test_nothing_stays_stopped_when_the_watchdog_goes(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    child = start(BUSY)
    with pytest.raises(ZeroDivisionError), Watchdog(lambda: [child.pid], cpus=0.01) as watchdog:
        until(lambda: watchdog.check() is None and state(child.pid) == "T")
        raise ZeroDivisionError
    until(lambda: state(child.pid) != "T")


def test_what_the_task_itself_stopped_stays_so(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    own, busy = start("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"), start(BUSY)
    until(lambda: state(own.pid) == "T")
    with Watchdog(lambda: [own.pid, busy.pid], cpus=0.01) as watchdog:
        until(lambda: watchdog.check() is None and state(busy.pid) == "T")
    assert state(own.pid) == "T"


def test_looks_that_take_long_are_far_apart_but_not_too_far() -> None:
    assert pause_after(0.001) < 0.05
    assert pause_after(0.03) == pytest.approx(0.15)
    assert pause_after(10) == 0.25


PARENT = Process(parent=1, state="S", own=1.0, collected=0.0, started=1, resident=0)
CHILD = Process(parent=2, state="R", own=5.0, collected=0.0, started=2, resident=0)


@pytest.mark.parametrize(
    ("later", "used"),
    [
        ({2: PARENT, 3: attrs.evolve(CHILD, own=5.5)}, 0.5),
        ({2: attrs.evolve(PARENT, collected=5.5)}, 0.5),
        ({2: attrs.evolve(PARENT, own=1.25)}, 0.25),
        ({2: PARENT, 3: attrs.evolve(CHILD, own=0.5, started=9)}, 0.5),
        ({2: attrs.evolve(PARENT, collected=5.5), 3: attrs.evolve(CHILD, own=0.5, started=9)}, 1.0),
        ({2: PARENT, 3: CHILD, 4: attrs.evolve(CHILD, own=0.5, collected=0.25)}, 0.75),
        ({}, 0.0),
    ],
    ids=["works on", "ended", "ended uncollected", "id of another now", "both", "new", "all gone"],
)
def test_no_use_is_counted_twice(later: dict[int, Process], used: float) -> None:
    assert _used({2: PARENT, 3: CHILD}, later) == pytest.approx(used)

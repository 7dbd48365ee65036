"""Several pieces of work beside each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from medperf_core.errors import CancelledError, TransferError
from medperf_core.plugin import CancelToken
from medperf_core.site.several import several


def test_results_come_in_the_order_of_the_works() -> None:
    both = threading.Barrier(2, timeout=10)  # only passed if two are under way at a time
    first_done = threading.Event()

    def slow() -> str:
        both.wait()
        first_done.wait(10)
        return "slow"

    def fast() -> str:
        both.wait()
        first_done.set()
        return "fast"

    assert several([slow, fast], CancelToken()) == ["slow", "fast"]
    assert several([], CancelToken()) == []


def test_no_more_than_some_are_under_way() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    several([work] * 20, CancelToken(), at_once=3)
    assert most == 3


def test_the_first_failure_ends_all() -> None:
    cancel, begun, waiting = CancelToken(), [], threading.Event()

    def failing() -> None:
        waiting.wait(10)
        raise TransferError("it is not there")

    def patient() -> None:
        waiting.set()
        while True:
            cancel.raise_if_cancelled()
            time.sleep(0.01)

    def late(number: int) -> Callable[[], None]:
        return lambda: begun.append(number)

    with pytest.raises(TransferError, match="it is not there"):
        several([failing, patient, *(late(number) for number in range(100))], cancel, at_once=2)
    assert cancel.cancelled
    assert len(begun) < 100


def test_cancelled_from_outside_it_ends() -> None:
    cancel = CancelToken()

    def work() -> None:
        cancel.cancel()
        cancel.raise_if_cancelled()

    with pytest.raises(CancelledError):
        several([work, work], cancel)

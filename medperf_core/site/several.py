"""Several pieces of work beside each other, of which the first failure ends all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Lock
from typing import TypeVar

from medperf_core.plugin.context import CancelToken

AT_ONCE = 8
"""More connections than this are more than many servers allow, and make nothing faster."""

T = TypeVar("T")


def several(works: Iterable[Callable[[], T]], cancel: CancelToken, at_once: int = AT_ONCE) -> list[T]:
    """Do all of it in threads; the results in the order of the works.

    Args:
        cancel: is set by a failure, so that what is under way ends; what has not begun by then never does.

    Raises:
        Exception: the first failure, once nothing is under way any more.
    """
    failures: list[BaseException] = []
    lock = Lock()

    def done(work: Callable[[], T]) -> T:
        cancel.raise_if_cancelled()
        try:
            return work()
        except BaseException as error:
            with lock:
                failures.append(error)  # what others end with may only come of this one
                cancel.cancel()
            raise

    with ThreadPoolExecutor(at_once, thread_name_prefix="several") as pool:
        futures = [pool.submit(done, work) for work in works]
        try:
            wait(futures)
        except BaseException:
            cancel.cancel()
            raise
    if failures:
        raise failures[0]
    return [future.result() for future in futures]

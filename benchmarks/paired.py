"""Time two commands in turn and give the ratio pair by pair, so that a machine whose speed drifts does not matter."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Ratio(NamedTuple):
    """Seconds of both commands (medians) and the median of their ratios, pair by pair."""

    ours: float
    peer: float
    ratio: float


def seconds(command: Sequence[str], environment: dict[str, str]) -> float:
    """Wall-clock seconds of one run; its output is thrown away.

    Raises:
        RuntimeError: it failed.
    """
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    elapsed = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.decode(errors='replace')}")
    return elapsed


def compare(ours: Sequence[str], peer: Sequence[str], runs: int = 21, **environment: str) -> Ratio:
    """Run both commands in turn, after two runs that do not count."""
    variables = {**os.environ, **environment}
    for command in (ours, peer, ours, peer):
        seconds(command, variables)
    return ratio_of([(seconds(ours, variables), seconds(peer, variables)) for _ in range(runs)])


def compare_calls(
    ours: Callable[[], object], peer: Callable[[], object], runs: int, before: Callable[[], object] = int
) -> Ratio:
    """Call both in turn, after one pair that does not count.

    Args:
        ours: may return the seconds that it took itself, where a new process would add its start.
        before: is called before each call and not timed.
    """

    def elapsed(work: Callable[[], object]) -> float:
        before()
        started = time.perf_counter()
        told = work()
        return told if isinstance(told, float) else time.perf_counter() - started

    return ratio_of([(elapsed(ours), elapsed(peer)) for _ in range(runs + 1)][1:])


def ratio_of(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """The medians of measured pairs (seconds of ours, seconds of the peer)."""
    return Ratio(
        statistics.median(mine for mine, _ in pairs),
        statistics.median(theirs for _, theirs in pairs),
        statistics.median(mine / theirs for mine, theirs in pairs),
    )

"""Measure and print the tables of docs/performance.md; exit code 1 if one misses its limit.

``python -m benchmarks [--quick] [startup] [hashing] [transfer] [archives] [buckets] [task]
[singularity]``: without the last three, which need engines, if none is named.
``--quick`` measures a hundredth, to see that all works; its ratios say little and its exit code nothing.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.rows import Row
from benchmarks.sizes import FULL, QUICK, Sizes


def _startup(folder: Path, sizes: Sizes) -> list[Row]:
    from benchmarks.installed import install
    from benchmarks.startup import measure

    results = measure(install(folder), folder / "home")
    return [
        Row(f"`{' '.join(case.command)}`", f'`python -c "{case.peer}"`', ratio, case.limit) for case, ratio in results
    ]


def _hashing(folder: Path, sizes: Sizes) -> list[Row]:
    from benchmarks.hashing import measure

    return measure(folder, sizes)


def _transfer(folder: Path, sizes: Sizes) -> list[Row]:
    from benchmarks.transfer import measure

    return measure(folder, sizes)


def _buckets(folder: Path, sizes: Sizes) -> Iterable[Row]:
    from benchmarks.stores import measure

    return measure(folder, sizes)


def _archives(folder: Path, sizes: Sizes) -> list[Row]:
    from benchmarks.archives import measure

    return measure(folder, sizes)


def _task(folder: Path, sizes: Sizes) -> list[Row]:
    from benchmarks.docker_task import measure

    return [Row("one trivial closed task", "`docker run --rm` with the same flags", measure(folder), 1.1)]


def _singularity(folder: Path, sizes: Sizes) -> list[Row]:
    from benchmarks.singularity_task import measure

    return [Row("one trivial closed task", "`apptainer exec` with the same flags", measure(folder), 1.1)]


MEASUREMENTS: dict[str, Callable[[Path, Sizes], Iterable[Row]]] = {
    "startup": _startup,
    "hashing": _hashing,
    "transfer": _transfer,
    "buckets": _buckets,
    "archives": _archives,
    "task": _task,
    "singularity": _singularity,
}
ENGINES = ("buckets", "task", "singularity")
"""Measurements that need an engine each."""


def main(arguments: Sequence[str]) -> int:
    """Measure what is named, and print each line as soon as it is known."""
    quick = "--quick" in arguments
    names = [name for name in arguments if name != "--quick"] or [name for name in MEASUREMENTS if name not in ENGINES]
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        print(f"Unknown: {', '.join(unknown)}. Known: {', '.join(MEASUREMENTS)}, --quick.", file=sys.stderr)
        return 2
    reached = True
    print("| what | median | against | median | ratio | at most |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name in names:
        # Not in /tmp, which may be a small disk in memory.
        with tempfile.TemporaryDirectory(prefix="medperf-benchmark-", dir="/var/tmp") as folder:
            for row in MEASUREMENTS[name](Path(folder), QUICK if quick else FULL):
                print(row.line(), flush=True)
                reached = reached and row.reached
    return 0 if reached or quick else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

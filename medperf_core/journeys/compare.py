"""Comparing the results of two runs, with the tolerance that a benchmark grants.

A benchmark states it in its metadata, as the largest relative difference: of all numbers with a fraction under
``default``, and of the numbers at or below a path under that path::

    {"tolerance": {"default": 1e-6, "auc.value": 0.01}}

The path of a value is the keys that lead to it, joined by dots, with ``[0]`` for places in lists. Whole numbers and
text must be the same where no path says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from medperf_core.entities import Benchmark
from medperf_core.errors import InvalidEntityError

DEFAULT = 1e-6
ZERO = 1e-12
"""Absolute difference below which numbers are the same, whatever the tolerance: noise around zero is not relative."""


@attrs.frozen
class Tolerance:
    """The largest relative difference that is granted: by default, and by path."""

    default: float = DEFAULT
    paths: Mapping[str, float] = attrs.field(factory=dict)

    @classmethod
    def of(cls, benchmark: Benchmark | None) -> Tolerance:
        """What a benchmark grants; the default for one that says nothing.

        Raises:
            InvalidEntityError: what it says is not a map of numbers from 0 on.
        """
        said = benchmark.metadata.get("tolerance", {}) if benchmark else {}
        if not isinstance(said, dict) or not all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
            for value in said.values()
        ):
            raise InvalidEntityError(
                f"The tolerance in the metadata of benchmark {benchmark.id if benchmark else ''} is {said!r:.200}.",
                hint='It must be a map of numbers from 0 on, such as {"default": 1e-6, "auc.value": 0.01}.',
            )
        paths = {path: float(value) for path, value in said.items() if path != "default"}
        return cls(float(said.get("default", DEFAULT)), paths)

    def at(self, path: str) -> float | None:
        """What is granted by name at a path, by itself or by the nearest path above it; None if nothing is."""
        while path:
            if path in self.paths:
                return self.paths[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return None


RUNS = ("in the first run", "in the second run")


def differences(
    first: Any, second: Any, tolerance: Tolerance, path: str = "", where: tuple[str, str] = RUNS
) -> Iterator[str]:
    """Where two results differ by more than is granted, one line for each value, with its path and both values.

    Args:
        where: what the lines say of where each of the two comes from.
    """
    if isinstance(first, dict) and isinstance(second, dict):
        for key in dict.fromkeys((*first, *second)):
            place = f"{path}.{key}" if path else str(key)
            if key in first and key in second:
                yield from differences(first[key], second[key], tolerance, place, where)
            else:
                yield f"{place}: only {where[0] if key in first else where[1]}"
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, pair in enumerate(zip(first, second, strict=True)):
            yield from differences(*pair, tolerance, f"{path}[{index}]", where)
    else:
        granted = _granted(first, second, tolerance, path)
        if not _same(first, second, granted):
            allowed = f"tolerance {granted:g}" if granted else "exact"
            yield f"{path}: {first!r:.80} {where[0]}, {second!r:.80} {where[1]} ({allowed})"


def _granted(first: Any, second: Any, tolerance: Tolerance, path: str) -> float:
    if not (_is_number(first) and _is_number(second)):
        return 0.0
    named = tolerance.at(path)
    if named is not None:
        return named
    return tolerance.default if isinstance(first, float) or isinstance(second, float) else 0.0


def _same(first: Any, second: Any, granted: float) -> bool:
    if _is_number(first) and _is_number(second) and (granted or float in (type(first), type(second))):
        try:
            return math.isclose(first, second, rel_tol=granted, abs_tol=ZERO)
        except OverflowError:  # a whole number beyond all floats
            return bool(first == second)
    return type(first) is type(second) and bool(first == second)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

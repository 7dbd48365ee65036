"""Results of two runs, compared with the tolerance that a benchmark grants."""

from __future__ import annotations

from typing import Any

import pytest

from medperf_core.entities import Benchmark
from medperf_core.errors import InvalidEntityError
from medperf_core.journeys.compare import Tolerance, differences


def benchmark(tolerance: Any) -> Benchmark:
    return Benchmark(
        name="b",
        demo_dataset_tarball_url="https://example.org/demo.tar.gz",
        demo_dataset_tarball_hash="0" * 64,
        demo_dataset_generated_uid="0" * 64,
        data_preparation_mlcube=1,
        reference_model=1,
        data_evaluator_mlcube=1,
        metadata={"tolerance": tolerance},
    )


def test_the_default_is_exact_for_whole_numbers_and_text_and_a_millionth_for_others() -> None:
    same: dict[str, Any] = {"n": 30, "name": "a", "auc": {"value": 0.9}, "list": [1.0, {"x": 1e9}], "none": None}
    close: dict[str, Any] = {**same, "auc": {"value": 0.9 * (1 + 9e-7)}, "list": [1.0, {"x": 1e9 + 900}]}
    assert not list(differences(same, close, Tolerance()))
    far: dict[str, Any] = {
        "n": 31,
        "name": "b",
        "auc": {"value": 0.9001},
        "list": [1.0, {"x": 1e9 + 2000}],
        "none": 0,
    }
    found = list(differences(same, far, Tolerance()))
    assert [line.partition(":")[0] for line in found] == ["n", "name", "auc.value", "list[1].x", "none"]
    assert found[0] == "n: 30 in the first run, 31 in the second run (exact)"
    assert found[2] == "auc.value: 0.9 in the first run, 0.9001 in the second run (tolerance 1e-06)"


@pytest.mark.parametrize(
    ("first", "second", "paths"),
    [
        ({"a": True}, {"a": 1}, ["a"]),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 0.0}, {"a": 1e-15}, []),
        ({"a": 0.0}, {"a": 1e-9}, ["a"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a"]),
        ({"a": {"b": 1}}, {"a": 1}, ["a"]),
        ({"a": 1, "b": 1}, {"a": 1, "c": 1}, ["b", "c"]),
        ({"a": 10**400}, {"a": 1.5}, ["a"]),
        ({"a": 10**400}, {"a": 10**400}, []),
    ],
)
def test_kinds_and_shapes(first: Any, second: Any, paths: list[str]) -> None:
    assert [line.partition(":")[0] for line in differences(first, second, Tolerance())] == paths


def test_a_benchmark_grants_by_path_and_below_it() -> None:
    granted = Tolerance.of(benchmark({"default": 0, "auc.value": 0.01, "time": 1, "cases": 0.5, "rows[1]": 0.1}))
    first = {"auc": {"value": 0.9, "low": 0.8}, "time": {"load": 5.0}, "cases": 30, "rows": [1.0, 1.0]}
    second = {"auc": {"value": 0.905, "low": 0.80001}, "time": {"load": 50.0}, "cases": 20, "rows": [1.05, 1.05]}
    assert [line.partition(":")[0] for line in differences(first, second, granted)] == ["auc.low", "rows[0]"]
    assert "exact" in next(differences(first, second, granted))


@pytest.mark.parametrize("said", [[1], "1e-6", {"auc": "1"}, {"auc": -1}, {"auc": True}, {"auc": None}])
def test_a_tolerance_that_is_none_is_refused(said: Any) -> None:
    with pytest.raises(InvalidEntityError, match="map of numbers from 0"):
        Tolerance.of(benchmark(said))


def test_no_tolerance_is_the_default() -> None:
    assert Tolerance.of(None) == Tolerance() == Tolerance.of(benchmark({}))

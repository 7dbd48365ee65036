"""Two sites in one process do not see each other."""

from __future__ import annotations

from pathlib import Path

from medperf_core.journeys.compatibility import run_test

from .conftest import Tutorial, start


def test_two_sites_in_one_process(tutorial: Tutorial, tmp_path: Path) -> None:
    other = start(tmp_path / "other")
    with tutorial.site() as one, other.site() as two:
        first = run_test(one, benchmark=1, model=str(tutorial.model))
        assert not two.records.list().reports or two.records.list().reports[0].uid != first.uid
        second = run_test(two, benchmark=1, model=str(other.model))
        assert first.results == second.results
        assert one.home.path != two.home.path
        one.cancel.cancel()
        assert not two.cancel.cancelled

"""kill -9 at seeded moments of the journey: the next command goes on, and the end is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .journey import Journey, moments

SEEDS = range(10)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], dict[str, Any]]:
    journey = Journey(tmp_path_factory.mktemp("calm") / "journey")
    durations = journey.undisturbed()
    assert journey.leftovers() == []
    return durations, journey.state()


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_a_seeded_moment(calm: tuple[list[float], dict[str, Any]], tmp_path: Path, seed: int) -> None:
    durations, state = calm
    journey = Journey(tmp_path / "journey")
    killed = journey.disturbed(moments(SEEDS, sum(durations))[seed], durations)
    assert killed.command
    assert journey.state() == state, f"after {killed}"
    assert journey.leftovers() == [], f"after {killed}"

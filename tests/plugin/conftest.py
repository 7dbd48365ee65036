"""Shared by the tests of the contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from medperf_core.plugin import BackendContext, Event


class Recorder:
    """Keeps the events that a backend emits."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def context(tmp_path: Path, recorder: Recorder) -> Iterator[BackendContext]:
    cache, temp = tmp_path / "cache", tmp_path / "temp"
    cache.mkdir()
    temp.mkdir()
    yield BackendContext(cache_dir=cache, temp_dir=temp, emit=recorder)
    assert not list(temp.iterdir()), "a backend left something in its temporary folder"

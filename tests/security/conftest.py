"""A tutorial of its own for tests that walk a whole journey."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from medperf_core.plugin import BackendContext
from tests.journeys.conftest import Tutorial, start


@pytest.fixture
def tutorial(tmp_path: Path) -> Tutorial:
    return start(tmp_path)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[BackendContext]:
    cache, temp = tmp_path / "cache", tmp_path / "temp"
    cache.mkdir()
    temp.mkdir()
    yield BackendContext(cache_dir=cache, temp_dir=temp)

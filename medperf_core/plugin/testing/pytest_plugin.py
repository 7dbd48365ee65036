"""What pytest loads wherever medperf-core is installed: light, because most of those runs use no kit."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from medperf_core.plugin.testing.probe_image import Probe
    from medperf_core.plugin.testing.runner_kit import Kept

# the kits' assertions explain themselves like those of a test module; nothing of them is imported here
_KITS = (path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "pytest_plugin"))
pytest.register_assert_rewrite(*(f"medperf_core.plugin.testing.{name}" for name in _KITS))


@pytest.fixture(scope="session")
def medperf_probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """The image that ``RunnerContract`` runs, made from this machine's Python; see ``Probe``.

    No other pytest run has the same one, so that several may use an engine, and remove their images, at once.
    """
    from medperf_core.plugin.testing.probe_image import Probe

    return Probe(tmp_path_factory.mktemp("medperf-probe"), f"probe {uuid.uuid4()}")


@pytest.fixture(scope="class")
def medperf_runner_kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """What the tests of one ``RunnerContract`` share: the runner's folders and the prepared image."""
    from medperf_core.plugin.testing.runner_kit import Kept

    return Kept(tmp_path_factory.mktemp("medperf-cache"), tmp_path_factory.mktemp("medperf-temp"))

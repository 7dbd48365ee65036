"""The ``container-config`` packager holds what the packager seam promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from medperf_core.builtin.container_config import medperf_packagers
from medperf_core.plugin import PackagerPlugin
from medperf_core.plugin.testing.packagers import Manifests, PackagerContract

DATA = Path(__file__).parents[1] / "data" / "manifests"


class TestContainerConfig(PackagerContract):
    @pytest.fixture
    def plugin(self) -> PackagerPlugin:
        (plugin,) = medperf_packagers()
        return plugin

    @pytest.fixture
    def manifests(self) -> Manifests:
        return sorted(DATA.glob("config_*.yaml"))

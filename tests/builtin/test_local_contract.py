"""The ``local`` executor holds what the executor seam promises."""

from __future__ import annotations

import pytest

from medperf_core.builtin.local import medperf_executors
from medperf_core.plugin import ExecutorPlugin
from medperf_core.plugin.testing.executors import ExecutorContract


class TestLocal(ExecutorContract):
    @pytest.fixture
    def plugin(self) -> ExecutorPlugin:
        (plugin,) = medperf_executors()
        return plugin

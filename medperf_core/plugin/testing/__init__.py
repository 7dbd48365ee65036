"""The conformance kits: one class of tests for each seam, which a backend's own tests subclass.

``RunnerContract``, ``PackagerContract``, ``StorageContract``, ``ServerContract`` and ``ExecutorContract`` are loaded
when they are first used: they need pytest (``pip install "medperf-core[testing]"``), which nothing else here does.
See ``docs/plugins/conformance.md``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medperf_core.plugin.testing.executors import ExecutorContract
    from medperf_core.plugin.testing.packagers import PackagerContract
    from medperf_core.plugin.testing.runners import RunnerContract
    from medperf_core.plugin.testing.servers import ServerContract
    from medperf_core.plugin.testing.storages import StorageContract

_HOMES = {
    "ExecutorContract": "executors",
    "PackagerContract": "packagers",
    "RunnerContract": "runners",
    "ServerContract": "servers",
    "StorageContract": "storages",
}

__all__ = ["ExecutorContract", "PackagerContract", "RunnerContract", "ServerContract", "StorageContract"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

"""The ``local`` executor's plugin; see ``_local_executor``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from medperf_core.plugin import ExecutorPlugin, NoSettings, hookimpl

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext, Executor
    from medperf_core.plugin.descriptors import RunJob


def make(settings: NoSettings, context: BackendContext, run: RunJob) -> Executor:
    """The executor of a site."""
    from medperf_core.builtin._local_executor import LocalExecutor

    return LocalExecutor(context, run)


@hookimpl
def medperf_executors() -> Iterator[ExecutorPlugin]:
    """One executor."""
    yield ExecutorPlugin(name="local", summary="runs tasks on this machine", api=1, make=make)

"""The ``process`` runner's plugin; see ``_process_runner``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from medperf_core.plugin import NoSettings, RunnerPlugin, hookimpl

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext, Runner


def make(settings: NoSettings, context: BackendContext) -> Runner:
    """The runner of a site."""
    from medperf_core.builtin._process_runner import ProcessRunner

    return ProcessRunner(context)


@hookimpl
def medperf_runners() -> Iterator[RunnerPlugin]:
    """One runner."""
    yield RunnerPlugin(
        name="process", summary="runs a container's own project here, without isolation", api=1, make=make
    )

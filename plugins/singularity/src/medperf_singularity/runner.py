"""The runner: who does what. Images are prepared by ``prepare`` and ``images``, tasks run by ``execute``."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from medperf_core.entities.image import ImageIdentity, ImageSource, SourceKind
from medperf_core.plugin import BackendContext, Capabilities, Check, PreparedImage, Runner, TaskOutcome, TaskRequest
from medperf_singularity.engine import Engine, find_engine

if TYPE_CHECKING:
    from medperf_singularity.plugin import SingularitySettings


class SingularityRunner(Runner):
    """Runs tasks with one engine, which is looked for when it is first needed."""

    def __init__(self, settings: SingularitySettings, context: BackendContext) -> None:
        self._settings, self._context = settings, context
        self._cleaned = False

    @cached_property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            ExecutionError: there is none that can be used.
        """
        return find_engine(self._settings)

    def capabilities(self) -> Capabilities:
        from medperf_singularity import probe

        return probe.capabilities(self.engine, self._settings, self._context)

    def supports(self, source: ImageSource) -> bool:
        if source.kind is SourceKind.TREE:
            return source.dockerfile is not None
        return source.kind in (SourceKind.REGISTRY, SourceKind.ARCHIVE, SourceKind.SIF)

    def prepare(self, source: ImageSource, expected: Iterable[ImageIdentity] = ()) -> PreparedImage:
        from medperf_singularity import leftovers, prepare, store

        if not self._cleaned:
            self._cleaned = True
            leftovers.clean(self._context)
            store.remove_leftovers(self._context)
        return prepare.prepare(self.engine, self._settings, self._context, source, tuple(expected))

    def save(self, prepared: PreparedImage, folder: Path) -> Path:
        from medperf_singularity import save

        return save.save(self.engine, self._context, prepared, folder)

    def run(self, prepared: PreparedImage, request: TaskRequest) -> TaskOutcome:
        from medperf_singularity import execute, store

        config = store.describe(self._context, prepared)
        return execute.run(self.engine, self._settings, self._context, prepared, config, request)

    def command_line(self, prepared: PreparedImage, request: TaskRequest) -> tuple[str, ...]:
        from medperf_singularity import arguments, store

        config = store.describe(self._context, prepared)
        return arguments.command_line(self.engine, self._settings, self._context, prepared, config, request)

    def doctor(self) -> Iterable[Check]:
        from medperf_singularity import doctor

        return doctor.checks(self._settings, self._context)

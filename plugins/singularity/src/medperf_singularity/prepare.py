"""Which module prepares which kind of source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medperf_core.entities.image import ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import ExecutionError
from medperf_core.plugin import BackendContext, PreparedImage
from medperf_singularity import build
from medperf_singularity.engine import Engine
from medperf_singularity.images import archive, registry, sandbox, sif

if TYPE_CHECKING:
    from medperf_singularity.plugin import SingularitySettings


def prepare(
    engine: Engine,
    settings: SingularitySettings,
    context: BackendContext,
    source: ImageSource,
    expected: Sequence[ImageIdentity],
) -> PreparedImage:
    """Fetch, verify and convert an image; see ``Runner.prepare``."""
    if source.kind is SourceKind.REGISTRY:
        found = registry.prepare(engine, settings, context, source, expected)
    elif source.kind is SourceKind.ARCHIVE:
        found = archive.prepare(engine, context, source, expected)
    elif source.kind is SourceKind.SIF and Path(source.location).is_dir():
        found = sandbox.prepare(engine, context, source, expected)
    elif source.kind is SourceKind.SIF:
        found = sif.prepare(context, source, expected)
    elif source.kind is SourceKind.TREE:
        found = build.prepare(engine, settings, context, source, expected)
    else:
        raise ExecutionError(f"{engine.name} cannot run the image {source}.")
    return found

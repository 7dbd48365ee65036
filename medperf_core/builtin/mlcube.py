"""The plugin of the ``mlcube`` packager; see ``_mlcube_packager``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from medperf_core.plugin import NoSettings, PackagerPlugin, hookimpl

if TYPE_CHECKING:
    from medperf_core.plugin import Packager


def make(settings: NoSettings) -> Packager:
    """The packager."""
    from medperf_core.builtin._mlcube_packager import MlcubePackager

    return MlcubePackager()


@hookimpl
def medperf_packagers() -> Iterator[PackagerPlugin]:
    """One packager."""
    yield PackagerPlugin(name="mlcube", summary="reads mlcube.yaml", api=1, make=make)

"""The plugin of the ``container-config`` packager; see ``_container_config_packager``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from medperf_core.plugin import NoSettings, PackagerPlugin, hookimpl

if TYPE_CHECKING:
    from medperf_core.plugin import Packager


def make(settings: NoSettings) -> Packager:
    """The packager."""
    from medperf_core.builtin._container_config_packager import ContainerConfigPackager

    return ContainerConfigPackager()


@hookimpl
def medperf_packagers() -> Iterator[PackagerPlugin]:
    """One packager."""
    yield PackagerPlugin(name="container-config", summary="reads container_config.yaml", api=1, make=make)

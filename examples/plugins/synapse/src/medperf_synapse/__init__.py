"""The store ``synapse``: light, because it is imported at every start of ``medperf``."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from medperf_core.plugin import BackendContext, Storage, StoragePlugin, hookimpl, setting


@attrs.frozen
class SynapseSettings:
    """What can be set for the ``synapse`` store."""

    endpoint: str = setting("https://repo-prod.prod.sagebase.org", "Address of Synapse's REST services.")
    timeout: float = setting(60.0, "Seconds without a byte after which a connection is given up.")


def make(settings: SynapseSettings, context: BackendContext) -> Storage:
    """The store of a site."""
    from medperf_synapse.store import SynapseStorage

    return SynapseStorage(settings, context)


@hookimpl
def medperf_storages() -> Iterator[StoragePlugin]:
    """One store, for addresses such as ``synapse:syn123``."""
    yield StoragePlugin(
        name="synapse",
        summary="files of Synapse",
        api=1,
        schemes=("synapse",),
        credentials=("token",),
        settings=SynapseSettings,
        make=make,
    )

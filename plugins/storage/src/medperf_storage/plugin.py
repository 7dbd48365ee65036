"""What the entry point names. One store per scheme family; each has a module of its own that is imported when used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from medperf_core.plugin import StoragePlugin, hookimpl
from medperf_storage.settings import HttpSettings

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext, Storage


def _make_http(settings: HttpSettings, context: BackendContext) -> Storage:
    from medperf_storage.http import HttpStorage

    return HttpStorage(settings, context)


@hookimpl
def medperf_storages() -> Iterator[StoragePlugin]:
    yield StoragePlugin(
        name="http",
        summary="files on web servers",
        api=1,
        schemes=("http", "https"),
        settings=HttpSettings,
        make=_make_http,
    )

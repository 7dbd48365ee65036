"""What the entry point names. One store per scheme family; each has a module of its own that is imported when used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from medperf_core.plugin import StoragePlugin, hookimpl
from medperf_storage.object_settings import GcsSettings, S3Settings
from medperf_storage.settings import HttpSettings

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext, Storage


def _make_http(settings: HttpSettings, context: BackendContext) -> Storage:
    from medperf_storage.http import HttpStorage

    return HttpStorage(settings, context)


def _make_s3(settings: S3Settings, context: BackendContext) -> Storage:
    from medperf_storage.s3 import S3Storage

    return S3Storage(settings, context)


def _make_gs(settings: GcsSettings, context: BackendContext) -> Storage:
    from medperf_storage.gcs import GcsStorage

    return GcsStorage(settings, context)


def _check_gs(credentials: Mapping[str, str]) -> str:
    from medperf_storage.credentials_check import check_gs

    return check_gs(credentials)


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
    yield StoragePlugin(
        name="s3",
        summary="objects in buckets of S3: AWS, and other servers that speak it",
        api=1,
        schemes=("s3",),
        credentials=("access_key_id", "secret_access_key", "session_token"),
        settings=S3Settings,
        make=_make_s3,
    )
    yield StoragePlugin(
        name="gs",
        summary="objects in buckets of Google Cloud Storage",
        api=1,
        schemes=("gs",),
        credentials=("access_token", "service_account"),
        check_credentials=_check_gs,
        settings=GcsSettings,
        make=_make_gs,
    )

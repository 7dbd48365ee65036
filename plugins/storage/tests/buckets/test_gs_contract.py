"""The ``gs`` store holds what the storage seam promises, against a server for Google Cloud Storage."""

from __future__ import annotations

from typing import Any

import pytest

from medperf_core.plugin import StoragePlugin
from medperf_core.plugin.testing.storages import Place, StorageContract
from medperf_storage.plugin import medperf_storages


class TestGs(StorageContract):
    @pytest.fixture
    def plugin(self) -> StoragePlugin:
        return next(each for each in medperf_storages() if each.name == "gs")

    @pytest.fixture
    def settings(self, gs_bucket: Any) -> Any:
        return gs_bucket.settings()

    @pytest.fixture
    def place(self, gs_bucket: Any) -> Place:
        def put(content: bytes, name: str) -> str:
            return str(gs_bucket.put(name, content))

        return put

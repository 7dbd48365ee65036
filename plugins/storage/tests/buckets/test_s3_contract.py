"""The ``s3`` store holds what the storage seam promises, against a real S3 server."""

from __future__ import annotations

from typing import Any

import pytest

from medperf_core.plugin import StoragePlugin
from medperf_core.plugin.testing.storages import Place, StorageContract
from medperf_storage.plugin import medperf_storages


class TestS3(StorageContract):
    @pytest.fixture
    def plugin(self) -> StoragePlugin:
        return next(each for each in medperf_storages() if each.name == "s3")

    @pytest.fixture
    def settings(self, s3_bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_bucket.credentials["access_key_id"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_bucket.credentials["secret_access_key"])
        return s3_bucket.settings()

    @pytest.fixture
    def place(self, s3_bucket: Any) -> Place:
        def put(content: bytes, name: str) -> str:
            return str(s3_bucket.put(name, content))

        return put

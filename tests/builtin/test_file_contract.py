"""The ``file`` store holds what the storage seam promises."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest

from medperf_core.builtin.file import medperf_storages
from medperf_core.plugin import StoragePlugin
from medperf_core.plugin.testing.storages import Place, StorageContract


class TestFile(StorageContract):
    @pytest.fixture
    def plugin(self) -> StoragePlugin:
        (plugin,) = medperf_storages()
        return plugin

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        def put(content: bytes, name: str) -> str:
            (tmp_path / name).write_bytes(content)
            return f"file://{quote(os.fsencode(tmp_path / name))}"

        return put

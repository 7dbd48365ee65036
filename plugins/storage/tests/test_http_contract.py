"""The ``http`` store holds what the storage seam promises, against a real web server."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from medperf_core.plugin import StoragePlugin
from medperf_core.plugin.testing.relay import Relay
from medperf_core.plugin.testing.storages import Place, StorageContract
from medperf_storage.plugin import medperf_storages
from medperf_storage.settings import HttpSettings
from tests.engines import require


class TestHttp(StorageContract):
    @pytest.fixture
    def plugin(self) -> StoragePlugin:
        return next(each for each in medperf_storages() if each.name == "http")

    @pytest.fixture
    def settings(self) -> HttpSettings:
        return HttpSettings(attempts=3, pause=0)

    @pytest.fixture
    def place(self, relay: Relay) -> Iterator[Place]:
        engine = require("nginx")
        port = urlsplit(engine["MEDPERF_TEST_NGINX_HTTP"]).port
        assert port
        door = relay.front(port)
        folder = Path(engine["MEDPERF_TEST_NGINX_ROOT"], f"contract-{uuid.uuid4().hex}")
        folder.mkdir()

        def put(content: bytes, name: str) -> str:
            (folder / name).write_bytes(content)
            return f"http://127.0.0.1:{door}/{folder.name}/{quote(name)}"

        yield put
        shutil.rmtree(folder)

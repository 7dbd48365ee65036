"""The embedded client holds what the server-client seam promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from medperf_server.embedded import EmbeddedClient
from medperf_server.store import Store

from medperf_core.entities import User
from medperf_core.plugin import BackendContext
from medperf_core.plugin.testing.servers import Clients, Person, ServerContract


class TestEmbedded(ServerContract):
    @pytest.fixture
    def clients(self, store: Store, tmp_path: Path) -> Clients:
        address = f"embedded:{tmp_path / 'registry.db'}"

        class Client(EmbeddedClient):
            _store = store  # PostgreSQL too, which an address cannot name

        def make(person: Person | None) -> EmbeddedClient:
            known = {"username": person.value} if person else None
            context = BackendContext(tmp_path, tmp_path, credentials=lambda name: known if name == address else None)
            return Client(address, context)

        admin = store.people()[0]
        for person in Person:
            if person is not Person.ADMIN:
                store.create(admin, User(username=person.value, email=f"{person}@example.org"))
        return make

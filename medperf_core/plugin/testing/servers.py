"""The conformance kit of the server-client seam.

Subclass ``ServerContract``, define the fixture ``clients`` (and ``ask``, if a login asks for more than a name), and run
pytest. Each test has a fresh server with the four people of ``Person``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from medperf_core.entities import Container
from medperf_core.errors import AuthenticationError
from medperf_core.plugin.server import Ask, Party
from medperf_core.plugin.testing import drafts
from medperf_core.plugin.testing.common import fill_in
from medperf_core.plugin.testing.server_benchmarks import BenchmarkTests
from medperf_core.plugin.testing.server_registry import RegistryTests
from medperf_core.plugin.testing.server_world import Clients, Person, World

__all__ = ["Clients", "Person", "ServerContract"]


class ServerContract(RegistryTests, BenchmarkTests):
    """What every server client does."""

    @pytest.fixture
    def clients(self) -> Clients:
        """To be defined: clients of one fresh server that knows the people of ``Person``."""
        fill_in("ServerContract", "clients", "a function (person or None) -> client of one fresh server")

    @pytest.fixture
    def ask(self) -> Ask:
        """What a person answers when a login asks; by default nothing is asked."""

        def never(question: str, secret: bool, answers: tuple[str, ...]) -> str:
            pytest.fail(f"the login asked {question!r}: define the fixture 'ask'")

        return never

    @pytest.fixture
    def world(self, clients: Clients) -> World:
        """A benchmark that is approved and operational, a model and a dataset; see ``World``."""
        return World(*(clients(person) for person in Person))

    def test_a_login_tells_who_it_is(self, clients: Clients, ask: Ask) -> None:
        seen = set()
        for person in Person:
            me = clients(person).me()
            login = clients(None).login(person.value, ask)
            assert login.user == me
            assert (me.username, me.is_admin) == (person.value, person is Person.ADMIN)
            assert login.credentials, "nothing would be known of the login the next time"
            assert all(isinstance(text, str) for pair in login.credentials.items() for text in pair)
            seen.add(me.id)
        assert len(seen) == len(Person) and None not in seen

    def test_a_stranger_is_not_let_in(self, clients: Clients, ask: Ask) -> None:
        clients(Person.ADMIN).me()
        for name in ("nobody-of-this-name", "x' or 1=1 --", ""):
            with pytest.raises(AuthenticationError):
                clients(None).login(name, ask)

    def test_nothing_is_done_for_nobody(self, clients: Clients) -> None:
        draft = clients(Person.MODEL_OWNER).draft_create(drafts.container("c"))
        nobody = clients(None)
        uses: list[Callable[[], Any]] = [
            nobody.me,
            lambda: nobody.get(Container, 1),
            lambda: list(nobody.list(Container)),
            lambda: nobody.model_of(1),
            lambda: nobody.associations(Party.MODEL),
            lambda: nobody.send(draft),
        ]
        for use in uses:
            with pytest.raises(AuthenticationError):
                use()
        assert list(clients(Person.MODEL_OWNER).list(Container)) == []

    def test_a_logout_ends_no_other_login(self, clients: Clients) -> None:
        one, other = clients(Person.MODEL_OWNER), clients(Person.DATA_OWNER)
        one.me()
        one.logout()
        assert other.me().username == Person.DATA_OWNER

"""What loaded bundles know of a server, read only: it stands in for the server where there is no connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from medperf_core.entities import Approval, Association, Benchmark, Container, Entity, Model, User
from medperf_core.errors import NotFoundError, OfflineError
from medperf_core.plugin.server import Ask, Login, Party, ServerClient, Submission
from medperf_core.site.bundles import LoadedBundle

E = TypeVar("E", bound=Entity)


class OfflineServer(ServerClient):
    """The metadata of bundles; where several have an entity, that of the newest.

    Args:
        address: what it stands in for.
        bundles: the newest first.
    """

    trusted_addresses = False

    def __init__(self, address: str, bundles: Sequence[LoadedBundle]) -> None:
        self.address = address
        self.bundles = list(bundles)

    def login(self, user: str | None, ask: Ask) -> Login:
        self._refuse("logging in")

    def logout(self) -> None:
        """Nothing to do."""

    def me(self) -> User:
        """Nobody: what bundles hold is what everybody may see."""
        return User(username="offline")

    def get(self, kind: type[E], uid: int) -> E:
        found = self._all(kind).get(uid)
        if found is None:
            raise NotFoundError(
                f"Offline, and no loaded bundle has the {kind.__name__.lower()} {uid}.",
                hint="Load one that has it (medperf bundle load), or work without --offline.",
            )
        return found

    def list(self, kind: type[E], *, mine: bool = False, **filters: Any) -> Iterator[E]:
        for _, entity in sorted(self._all(kind).items()):
            if not mine and all(getattr(entity, name) == value for name, value in filters.items()):
                yield entity

    def model_of(self, container_uid: int) -> Model:
        for model in self._all(Model).values():
            if model.container is not None and model.container.id == container_uid:
                return model
        raise NotFoundError(f"Offline, and no loaded bundle has a model of the container {container_uid}.")

    def associations(self, party: Party, *, benchmark: int | None = None) -> Sequence[Association]:
        return ()

    def draft_create(self, thing: Entity | Association) -> Submission:
        self._refuse("registering")

    def draft_update(self, kind: type[Entity], uid: int, changes: Mapping[str, Any]) -> Submission:
        self._refuse("changing what is registered")

    def draft_answer(self, party: Party, uid: int, benchmark: int, answer: Approval) -> Submission:
        self._refuse("answering a request")

    def send(self, submission: Submission) -> Entity | Association:
        self._refuse("sending")

    def _all(self, kind: type[E]) -> dict[int, E]:
        fields: dict[type[Any], str] = {Benchmark: "benchmarks", Container: "containers", Model: "models"}
        found: dict[int, E] = {}
        for bundle in reversed(self.bundles):
            found |= (
                {entity.uid: entity for entity in getattr(bundle.index, fields[kind], ())} if kind in fields else {}
            )
        return found

    def _refuse(self, what: str) -> NoReturn:
        raise OfflineError(f"Offline: {what} needs a connection to the server.", hint="Run it without --offline.")

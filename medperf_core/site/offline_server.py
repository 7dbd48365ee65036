"""What loaded bundles know of a server, read only: it stands in for the server where there is no connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from medperf_core.entities import Approval, Association, Benchmark, Container, Entity, Model, User
from medperf_core.errors import NotFoundError, OfflineError, VerificationError
from medperf_core.plugin.server import Ask, Login, Party, ServerClient, Submission
from medperf_core.site.bundles import LoadedBundle

E = TypeVar("E", bound=Entity)
_FIELDS: dict[type[Any], str] = {Benchmark: "benchmarks", Model: "models", Container: "containers"}


class OfflineServer(ServerClient):
    """The metadata of bundles. Of what a maker says in several, the newest holds; what two makers say differently is
    an error, since nobody here knows who is right.

    Args:
        address: what it stands in for.
        bundles: the newest first.
    """

    trusted_addresses = False

    def __init__(self, address: str, bundles: Sequence[LoadedBundle]) -> None:
        self.address = address
        self.bundles = tuple(bundles)

    def login(self, user: str | None, ask: Ask) -> Login:
        self._refuse("logging in")

    def logout(self) -> None:
        """Nothing to do."""

    def me(self) -> User:
        """Nobody: what bundles hold is what everybody may see."""
        return User(username="offline")

    def get(self, kind: type[E], uid: int) -> E:
        return self.told(kind, uid)[1]

    def told(self, kind: type[E], uid: int) -> tuple[LoadedBundle, E]:
        """An entity, and the bundle that says it.

        Raises:
            NotFoundError: no bundle has it.
            OfflineError: bundles carry nothing of this kind.
            VerificationError: two makers describe it differently.
        """
        found = self._all(kind).get(uid)
        if found is None:
            raise NotFoundError(
                f"Offline, and no loaded bundle has the {_word(kind)} {uid}.",
                hint="Load one that has it (medperf bundle load), or work without --offline.",
            )
        return self._agreed(kind, uid, found)

    def check(self) -> None:
        """Make sure that no two makers describe anything differently.

        Raises:
            VerificationError: two do; names them.
        """
        for kind in _FIELDS:
            list(self._entities(kind))

    def list(self, kind: type[E], *, mine: bool = False, **filters: Any) -> Iterator[E]:
        if mine:
            self._refuse(f"finding out which {_word(kind)}s are yours")
        for entity in self._entities(kind):
            if all(getattr(entity, name) == value for name, value in filters.items()):
                yield entity

    def model_of(self, container_uid: int) -> Model:
        for model in self._entities(Model):
            if model.container is not None and model.container.id == container_uid:
                return model
        raise NotFoundError(f"Offline, and no loaded bundle has a model of the container {container_uid}.")

    def associations(self, party: Party, *, benchmark: int | None = None) -> Sequence[Association]:
        raise _not_carried("associations")

    def draft_create(self, thing: Entity | Association) -> Submission:
        self._refuse("registering")

    def draft_update(self, kind: type[Entity], uid: int, changes: Mapping[str, Any]) -> Submission:
        self._refuse("changing what is registered")

    def draft_answer(self, party: Party, uid: int, benchmark: int, answer: Approval) -> Submission:
        self._refuse("answering a request")

    def send(self, submission: Submission) -> Entity | Association:
        self._refuse("sending")

    def _entities(self, kind: type[E]) -> Iterator[E]:
        for uid, found in sorted(self._all(kind).items()):
            yield self._agreed(kind, uid, found)[1]

    def _all(self, kind: type[E]) -> dict[int, Sequence[tuple[LoadedBundle, E]]]:
        """What the newest bundle of each maker says, by UID."""
        if kind not in _FIELDS:
            raise _not_carried(f"{_word(kind)}s")
        found: dict[int, dict[str, tuple[LoadedBundle, E]]] = {}
        for bundle in self.bundles:
            for entity in getattr(bundle.index, _FIELDS[kind]):
                found.setdefault(entity.uid, {}).setdefault(bundle.index.maker, (bundle, entity))
        return {uid: [*by_maker.values()] for uid, by_maker in found.items()}

    def _agreed(self, kind: type[E], uid: int, found: Sequence[tuple[LoadedBundle, E]]) -> tuple[LoadedBundle, E]:
        one, entity = found[0]
        for other, said in found[1:]:
            if said != entity:
                raise VerificationError(
                    f"The {_word(kind)} {uid} is described differently by the {one} and by the {other}.",
                    hint="Ask both makers which one is right, and forget the other: medperf bundle remove NAME",
                )
        return one, entity

    def _refuse(self, what: str) -> NoReturn:
        raise OfflineError(f"Offline: {what} needs a connection to the server.", hint="Run it without --offline.")


def _word(kind: type[Entity]) -> str:
    return kind.__name__.lower()


def _not_carried(what: str) -> OfflineError:
    return OfflineError(
        f"Offline: only the server knows the {what}; bundles carry benchmarks, their containers and their models.",
        hint="Run it without --offline.",
    )

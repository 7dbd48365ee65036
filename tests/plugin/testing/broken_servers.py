"""Server clients that break one promise each, and one that breaks none. Not collected; see test_kit_mutations.py."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import attrs
import pytest
from medperf_server.embedded import EmbeddedClient

from medperf_core.entities import Approval, Association, Benchmark, Container, Entity, Model, User
from medperf_core.errors import AuthenticationError, InvalidEntityError, NotFoundError, ServerError, UsageError
from medperf_core.plugin import Ask, BackendContext, Login, Party, Submission
from medperf_core.plugin.testing.servers import Clients, Person, ServerContract

E = TypeVar("E", bound=Entity)


class OfRegistry(ServerContract):
    """The ``embedded`` client, or what a subclass makes of it."""

    MANY = 20
    client: ClassVar[type[EmbeddedClient]] = EmbeddedClient
    caught_by: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def clients(self, tmp_path: Path) -> Clients:
        address = f"embedded:{tmp_path / 'registry.db'}"

        def make(person: Person | None, kind: type[EmbeddedClient] = self.client) -> EmbeddedClient:
            known = {"username": person.value} if person else None
            return kind(address, BackendContext(tmp_path, tmp_path, credentials=lambda name: known))

        admin = make(Person.ADMIN, EmbeddedClient)
        for person in Person:
            if person is not Person.ADMIN:
                admin.add_user(User(username=person.value, email=f"{person}@example.org"))
        return make


class TestSoundClient(OfRegistry):
    pass


class TestLetsStrangersIn(OfRegistry):
    caught_by = ("test_a_stranger_is_not_let_in",)

    class client(EmbeddedClient):
        def login(self, user: str | None, ask: Ask) -> Login:
            try:
                return super().login(user, ask)
            except AuthenticationError:
                return super().login("do", ask)


class TestActsForNobody(OfRegistry):
    caught_by = ("test_nothing_is_done_for_nobody",)

    class client(EmbeddedClient):
        @property
        def _actor(self) -> User:
            try:
                return super()._actor
            except AuthenticationError:
                return User(username="do")


class TestIsAlwaysTheAdmin(OfRegistry):
    caught_by = ("test_others_may_not_change_it", "test_only_an_admin_approves_a_benchmark")

    class client(EmbeddedClient):
        def send(self, submission: Submission) -> Entity | Association:
            if submission.action.startswith("update "):
                return EmbeddedClient(
                    self.address, attrs.evolve(self._context, credentials=lambda name: {"username": "admin"})
                ).send(submission)
            return super().send(submission)


class TestLosesMetadata(OfRegistry):
    caught_by = ("test_what_was_submitted_comes_back_whole",)

    class client(EmbeddedClient):
        def draft_create(self, thing: Entity | Association) -> Submission:
            known = {key: value for key, value in thing.metadata.items() if key == "client_uuid"}
            return super().draft_create(attrs.evolve(thing, metadata=known))


class TestSendsDrafts(OfRegistry):
    caught_by = ("test_a_draft_sends_nothing_and_is_plain_data",)

    class client(EmbeddedClient):
        def draft_create(self, thing: Entity | Association) -> Submission:
            draft = super().draft_create(thing)
            self.send(draft)
            return draft


class TestKeepsDraftsInMind(OfRegistry):
    caught_by = ("test_the_body_is_what_is_sent", "test_a_draft_sends_nothing_and_is_plain_data")

    class client(EmbeddedClient):
        draft: Submission

        def draft_create(self, thing: Entity | Association) -> Submission:
            self.draft = super().draft_create(thing)
            return self.draft

        def send(self, submission: Submission) -> Entity | Association:
            return super().send(self.draft)


class TestMakesTwice(OfRegistry):
    caught_by = ("test_what_is_sent_again_is_made_once",)

    class client(EmbeddedClient):
        def send(self, submission: Submission) -> Entity | Association:
            body = json.loads(submission.body)
            if "client_uuid" in body.get("metadata", {}):
                body["metadata"]["client_uuid"] = str(uuid.uuid4())
                body["name"] = f"{body.get('name')} {uuid.uuid4().hex[:6]}"
                if "image_hash" in body:
                    body["image_hash"] = uuid.uuid4().hex
            return super().send(attrs.evolve(submission, body=json.dumps(body).encode()))


class TestTakesNonsense(OfRegistry):
    caught_by = ("test_nonsense_as_body_is_refused",)

    class client(EmbeddedClient):
        def send(self, submission: Submission) -> Entity | Association:
            json.loads(submission.body)
            return super().send(submission)


class TestListsOnePage(OfRegistry):
    caught_by = ("test_a_long_list_comes_whole_and_in_order",)

    class client(EmbeddedClient):
        def list(self, kind: type[E], *, mine: bool = False, **filters: Any) -> Iterator[E]:
            return itertools.islice(super().list(kind, mine=mine, **filters), 10)


class TestListsBackwards(OfRegistry):
    caught_by = ("test_a_long_list_comes_whole_and_in_order",)

    class client(EmbeddedClient):
        def list(self, kind: type[E], *, mine: bool = False, **filters: Any) -> Iterator[E]:
            yield from reversed(tuple(super().list(kind, mine=mine, **filters)))


class TestForgetsFilters(OfRegistry):
    caught_by = ("test_lists_are_filtered",)

    class client(EmbeddedClient):
        def list(self, kind: type[E], *, mine: bool = False, **filters: Any) -> Iterator[E]:
            try:
                return super().list(kind, mine=mine, **filters)
            except UsageError:
                return super().list(kind, mine=mine)


class TestForgetsMine(OfRegistry):
    caught_by = ("test_lists_are_filtered",)

    class client(EmbeddedClient):
        def list(self, kind: type[E], *, mine: bool = False, **filters: Any) -> Iterator[E]:
            return super().list(kind, **filters)


class TestFindsNothingByAnotherName(OfRegistry):
    caught_by = ("test_what_is_not_there_is_not_found",)

    class client(EmbeddedClient):
        def get(self, kind: type[E], uid: int) -> E:
            try:
                return super().get(kind, uid)
            except NotFoundError as error:
                raise ServerError(error.message) from error


class TestChangesNothing(OfRegistry):
    caught_by = ("test_a_change_changes_what_it_says",)

    class client(EmbeddedClient):
        def send(self, submission: Submission) -> Entity | Association:
            if submission.action != "update container":
                return super().send(submission)
            return attrs.evolve(next(self.list(Container)), **json.loads(submission.body))


class TestChangesTooMuch(OfRegistry):
    caught_by = ("test_a_change_changes_what_it_says",)

    class client(EmbeddedClient):
        def draft_update(self, kind: type[Entity], uid: int, changes: Mapping[str, Any]) -> Submission:
            return super().draft_update(kind, uid, {"metadata": {}, **changes})


class TestDraftsWhatCannotBeSaid(OfRegistry):
    caught_by = ("test_a_change_that_cannot_be_said_is_refused_before_it_is_sent",)

    class client(EmbeddedClient):
        def draft_update(self, kind: type[Entity], uid: int, changes: Mapping[str, Any]) -> Submission:
            try:
                return super().draft_update(kind, uid, changes)
            except UsageError:
                return super().draft_update(kind, uid, {})


class TestTellsOneReason(OfRegistry):
    caught_by = ("test_a_name_is_taken_once_and_every_reason_is_told",)

    class client(EmbeddedClient):
        def send(self, submission: Submission) -> Entity | Association:
            try:
                return super().send(submission)
            except InvalidEntityError as error:
                raise InvalidEntityError(error.message, problems=error.problems[:1]) from error


class TestShowsAllAssociations(OfRegistry):
    caught_by = ("test_one_side_asks_and_the_other_answers",)

    class client(EmbeddedClient):
        def associations(self, party: Party, *, benchmark: int | None = None) -> Sequence[Association]:
            return super().associations(party)


class TestShowsAllowLists(OfRegistry):
    caught_by = ("test_allow_lists_are_for_their_owner",)

    class client(EmbeddedClient):
        def get(self, kind: type[E], uid: int) -> E:
            found = super().get(kind, uid)
            if isinstance(found, Benchmark):
                return attrs.evolve(found, model_auto_approval_allow_list=["partner@example.org"])
            return found


class TestIsSomebodyElse(OfRegistry):
    caught_by = ("test_a_login_tells_who_it_is",)

    class client(EmbeddedClient):
        def login(self, user: str | None, ask: Ask) -> Login:
            return super().login("admin", ask)


class TestLogsEverybodyOut(OfRegistry):
    caught_by = ("test_a_logout_ends_no_other_login",)

    class client(EmbeddedClient):
        def logout(self) -> None:
            self.path.write_bytes(b"")
            self._store.close()


class TestLosesClientUuids(OfRegistry):
    caught_by = ("test_a_client_uuid_is_found_in_lists",)

    class client(EmbeddedClient):
        def list(self, kind: type[E], *, mine: bool = False, **filters: Any) -> Iterator[E]:
            for each in super().list(kind, mine=mine, **filters):
                yield attrs.evolve(each, metadata={})


class TestSwallowsRefusals(OfRegistry):
    caught_by = ("test_what_is_in_operation_is_final", "test_results_are_final_and_not_for_everybody")

    class client(EmbeddedClient):
        def send(self, submission: Submission) -> Entity | Association:
            try:
                return super().send(submission)
            except InvalidEntityError:
                return next(self.list(Container))


class TestTakesAnyModel(OfRegistry):
    caught_by = ("test_the_model_of_a_container",)

    class client(EmbeddedClient):
        def model_of(self, container_uid: int) -> Model:
            try:
                return super().model_of(container_uid)
            except NotFoundError:
                return next(self.list(Model))


class TestShowsOldRows(OfRegistry):
    caught_by = ("test_an_association_is_withdrawn_and_its_latest_row_counts",)

    class client(EmbeddedClient):
        def associations(self, party: Party, *, benchmark: int | None = None) -> Sequence[Association]:
            found = super().associations(party, benchmark=benchmark)
            return [attrs.evolve(each, approval_status=Approval.APPROVED) for each in found]


class TestAnswersNobody(OfRegistry):
    caught_by = ("test_what_nobody_asked_cannot_be_answered",)

    class client(EmbeddedClient):
        def send(self, submission: Submission) -> Entity | Association:
            try:
                return super().send(submission)
            except NotFoundError as error:
                raise ServerError(error.message) from error

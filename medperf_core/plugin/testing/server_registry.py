"""Tests of server clients: what is registered, listed and changed. Part of ``ServerContract``."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from medperf_core.entities import Approval, Association, Benchmark, Container, Dataset, Entity, Model, Result, State
from medperf_core.errors import InvalidEntityError, MedperfError, NotFoundError, PermissionDeniedError, UsageError
from medperf_core.plugin.server import Party, ServerClient, ServerPromise, Submission
from medperf_core.plugin.testing import drafts
from medperf_core.plugin.testing.drafts import given
from medperf_core.plugin.testing.promises import not_promised
from medperf_core.plugin.testing.server_world import Clients, Person, World, sent

KINDS: tuple[type[Entity], ...] = (Container, Model, Dataset, Benchmark, Result)


class RegistryTests:
    """What a client says of entities, and what it makes of what is said to it."""

    MANY = 210
    """Entities that a list must give: more than the server or the client takes at a time."""

    def test_what_was_submitted_comes_back_whole(self, world: World) -> None:
        world.associate()
        submitted: list[tuple[ServerClient, Entity]] = [
            (world.mo, drafts.container("Plain ü")),
            (world.mo, drafts.model("Model ü")),
            (world.mo, drafts.asset_model("Asset ü")),
            (world.do, drafts.dataset("Data ü", world.preparator.uid)),
            (world.bo, drafts.benchmark("Bench ü", world.preparator.uid, world.evaluator.uid, world.reference.uid)),
            (world.do, world.result("Result ü")),
        ]
        for client, draft in submitted:
            made = sent(client, client.draft_create(draft), type(draft))
            assert given(made) == given(draft), "the server's answer is not what was submitted"
            assert made.owner == client.me().id and made.created_at
            assert client.get(type(draft), made.uid) == made

    def test_a_draft_sends_nothing_and_is_plain_data(self, clients: Clients) -> None:
        mo = clients(Person.MODEL_OWNER)
        draft = mo.draft_create(drafts.container("c"))
        assert list(mo.list(Container)) == []
        assert isinstance(json.loads(draft.body), dict) and draft.action and draft.target
        kept = json.dumps([draft.action, draft.target, draft.body.decode(), draft.route])
        action, target, body, route = json.loads(kept)
        made = sent(clients(Person.MODEL_OWNER), Submission(action, target, body.encode(), route), Container)
        assert made.name == "c"

    def test_the_body_is_what_is_sent(self, clients: Clients) -> None:
        mo = clients(Person.MODEL_OWNER)
        draft = mo.draft_create(drafts.container("approved"))
        other = attrs.evolve(draft, body=draft.body.replace(b"approved", b"Approved"))
        assert sent(mo, other, Container).name == "Approved"

    def test_nonsense_as_body_is_refused(self, clients: Clients) -> None:
        mo = clients(Person.MODEL_OWNER)
        draft = mo.draft_create(drafts.container("c"))
        for body in (b"", b"{", b"[]", b"null", b"\xff", b'{"name": 5}', b"[" * 100_000, draft.body[:-1]):
            with pytest.raises(MedperfError):
                mo.send(attrs.evolve(draft, body=body))
        with pytest.raises(MedperfError):
            mo.send(attrs.evolve(draft, route="no route of this client"))
        assert list(mo.list(Container)) == []

    def test_what_is_sent_again_is_made_once(self, world: World, clients: Clients) -> None:
        if ServerPromise.RESEND not in world.mo.promises:
            not_promised(world.mo.address, "to tell what comes again")
        things: list[tuple[Person, Entity | Association]] = [
            (Person.MODEL_OWNER, drafts.container("again")),
            (Person.MODEL_OWNER, drafts.model("again too")),
            (Person.DATA_OWNER, drafts.dataset("again", world.preparator.uid)),
            (Person.MODEL_OWNER, world.asking(Party.MODEL)),
        ]
        for person, thing in things:
            submission = clients(person).draft_create(thing)
            first = clients(person).send(submission)
            assert clients(person).send(submission).id == first.id, "it was made twice"
        assert [each.name for each in world.mo.list(Container, mine=True)].count("again") == 1
        assert len(world.mo.associations(Party.MODEL)) == 1

    def test_a_client_uuid_is_found_in_lists(self, world: World) -> None:
        for client, thing in (
            (world.mo, drafts.model("m")),
            (world.do, drafts.dataset("d", world.preparator.uid)),
        ):
            client.send(client.draft_create(thing))
            found = [each.metadata.get("client_uuid") for each in client.list(type(thing), mine=True)]
            assert thing.metadata["client_uuid"] in found

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_not_there_is_not_found(self, kind: type[Entity], clients: Clients) -> None:
        for uid in (1, 10**6, 2**62):
            with pytest.raises(NotFoundError) as caught:
                clients(Person.DATA_OWNER).get(kind, uid)
            assert str(uid) in str(caught.value)

    # --- lists ----------------------------------------------------------------------------------------------------

    def test_a_long_list_comes_whole_and_in_order(self, clients: Clients) -> None:
        mo = clients(Person.MODEL_OWNER)
        for number in range(self.MANY):
            mo.send(mo.draft_create(drafts.container(f"c{number}")))
        found = list(clients(Person.DATA_OWNER).list(Container))
        assert [each.name for each in found] == [f"c{number}" for number in range(self.MANY)]
        assert [each.uid for each in found] == sorted({each.uid for each in found})
        assert list(mo.list(Container, name="c0")) == found[:1]

    def test_lists_are_filtered(self, world: World) -> None:
        def names(client: ServerClient, kind: type[Entity], **filters: Any) -> list[str]:
            return [each.name for each in client.list(kind, **filters) if isinstance(each, (Container, Model))]

        assert names(world.mo, Model) == ["reference", "unet"]
        assert names(world.mo, Model, mine=True) == ["unet"]
        assert names(world.do, Model, mine=True) == []
        assert names(world.do, Container, owner=world.bo.me().id) == ["preparator", "evaluator", "reference"]
        assert names(world.do, Container, owner=world.bo.me().id, name="evaluator") == ["evaluator"]
        assert names(world.do, Container, state=State.DEVELOPMENT) == []
        assert names(world.do, Container, name="nothing") == []
        with pytest.raises(MedperfError):
            list(world.do.list(Container, no_such_field="x"))

    # --- changes --------------------------------------------------------------------------------------------------

    def test_a_change_changes_what_it_says(self, clients: Clients) -> None:
        mo = clients(Person.MODEL_OWNER)
        before = sent(mo, mo.draft_create(drafts.container("c")), Container)
        changes = {"name": "renamed", "user_metadata": {"new": drafts.ODD}, "parameters_config": {"a": [1, None]}}
        after = sent(mo, mo.draft_update(Container, before.uid, changes), Container)
        assert given(after) == {**given(before), **changes}
        assert mo.get(Container, before.uid) == after

    def test_what_is_in_operation_is_final(self, clients: Clients) -> None:
        mo = clients(Person.MODEL_OWNER)
        made = sent(mo, mo.draft_create(drafts.model("m")), Model)
        after = sent(mo, mo.draft_update(Model, made.uid, {"state": State.OPERATION}), Model)
        assert after.state is State.OPERATION
        assert after.container and after.container.state is State.OPERATION, "its container was left in DEVELOPMENT"
        for changes in ({"name": "other"}, {"state": State.DEVELOPMENT}):
            with pytest.raises(InvalidEntityError):
                mo.send(mo.draft_update(Model, made.uid, changes))
        with pytest.raises(InvalidEntityError):
            mo.send(mo.draft_update(Container, after.container.uid, {"image_hash": f"sha256:{drafts.digest('new')}"}))
        assert mo.get(Model, made.uid) == after

    def test_others_may_not_change_it(self, world: World) -> None:
        for kind, uid, owner in (
            (Model, world.unet.uid, world.mo),
            (Dataset, world.hospital.uid, world.do),
            (Benchmark, world.lungs.uid, world.bo),
        ):
            before = owner.get(kind, uid)
            stranger = world.do if owner is not world.do else world.mo
            with pytest.raises(PermissionDeniedError):
                stranger.send(stranger.draft_update(kind, uid, {"user_metadata": {"mine": True}}))
            assert owner.get(kind, uid) == before

    def test_a_change_that_cannot_be_said_is_refused_before_it_is_sent(self, clients: Clients) -> None:
        mo = clients(Person.MODEL_OWNER)
        for changes in ({"owner": 2}, {"id": 7}, {"no_such_field": 1}, {"user_metadata": {"a": float("nan")}}):
            with pytest.raises((UsageError, InvalidEntityError)):
                mo.draft_update(Container, 1, changes)
        with pytest.raises((UsageError, InvalidEntityError)):
            mo.draft_answer(Party.MODEL, 1, 1, Approval.PENDING)

    def test_a_name_is_taken_once_and_every_reason_is_told(self, clients: Clients) -> None:
        mo, do = clients(Person.MODEL_OWNER), clients(Person.DATA_OWNER)
        first = drafts.container("c")
        mo.send(mo.draft_create(first))
        twin = attrs.evolve(first, metadata=drafts.metadata())
        with pytest.raises(InvalidEntityError) as caught:
            do.send(do.draft_create(twin))
        assert "name" in str(caught.value) and "image" in str(caught.value), "one of the two reasons is missing"
        assert len(list(do.list(Container))) == 1

    def test_the_model_of_a_container(self, world: World) -> None:
        assert world.unet.container
        assert world.do.model_of(world.unet.container.uid) == world.do.get(Model, world.unet.uid)
        for uid in (world.preparator.uid, 10**6):
            with pytest.raises(NotFoundError):
                world.do.model_of(uid)

"""Tests of server clients: a benchmark and those who take part in it. Part of ``ServerContract``."""

from __future__ import annotations

import attrs
import pytest

from medperf_core.entities import Approval, Association, Benchmark, Result
from medperf_core.errors import InvalidEntityError, NotFoundError, PermissionDeniedError
from medperf_core.plugin.server import Party
from medperf_core.plugin.testing import drafts
from medperf_core.plugin.testing.server_world import World, sent


class BenchmarkTests:
    """Who asks, who answers, who sees it."""

    def test_only_an_admin_approves_a_benchmark(self, world: World) -> None:
        draft = drafts.benchmark("second", world.preparator.uid, world.evaluator.uid, world.reference.uid)
        draft = attrs.evolve(draft, approval_status=Approval.APPROVED)
        made = sent(world.bo, world.bo.draft_create(draft), Benchmark)
        assert made.approval_status is Approval.PENDING, "a benchmark approved itself"
        for client in (world.bo, world.mo):
            with pytest.raises(PermissionDeniedError):
                client.send(client.draft_update(Benchmark, made.uid, {"approval_status": Approval.APPROVED}))
        request = Association(benchmark=made.uid, model=world.unet.uid, metadata=drafts.metadata())
        with pytest.raises(InvalidEntityError):
            world.mo.send(world.mo.draft_create(request))
        admin = world.admin
        after = sent(admin, admin.draft_update(Benchmark, made.uid, {"approval_status": Approval.APPROVED}), Benchmark)
        assert after.approval_status is Approval.APPROVED and after.approved_at
        assert world.do.get(Benchmark, made.uid).approval_status is Approval.APPROVED

    @pytest.mark.parametrize("party", Party)
    def test_one_side_asks_and_the_other_answers(self, party: Party, world: World) -> None:
        uid, owner = world.side(party)
        draft = world.asking(party)
        asked = sent(owner, owner.draft_create(draft), Association)
        assert (asked.approval_status, asked.metadata) == (Approval.PENDING, draft.metadata)
        with pytest.raises((InvalidEntityError, PermissionDeniedError)):
            owner.send(owner.draft_answer(party, uid, world.lungs.uid, Approval.APPROVED))
        answer = world.bo.draft_answer(party, uid, world.lungs.uid, Approval.APPROVED)
        assert sent(world.bo, answer, Association).approval_status is Approval.APPROVED
        for client in (owner, world.bo):
            (found,) = client.associations(party, benchmark=world.lungs.uid)
            assert (found.approval_status, found.metadata) == (Approval.APPROVED, draft.metadata)
            assert list(client.associations(party)) == [found]
            assert list(client.associations(party, benchmark=10**6)) == []
        other = world.do if party is Party.MODEL else world.mo
        assert list(other.associations(party)) == [], "others see it"

    def test_an_association_is_withdrawn_and_its_latest_row_counts(self, world: World) -> None:
        world.associate()
        gone = Association(
            benchmark=world.lungs.uid,
            model=world.unet.uid,
            approval_status=Approval.REJECTED,
            metadata=drafts.metadata(),
        )
        assert sent(world.mo, world.mo.draft_create(gone), Association).approval_status is Approval.REJECTED
        (latest,) = world.bo.associations(Party.MODEL)
        assert latest.approval_status is Approval.REJECTED

    def test_what_nobody_asked_cannot_be_answered(self, world: World) -> None:
        for uid, benchmark in ((world.unet.uid, world.lungs.uid), (10**6, world.lungs.uid), (world.unet.uid, 10**6)):
            with pytest.raises(NotFoundError):
                world.bo.send(world.bo.draft_answer(Party.MODEL, uid, benchmark, Approval.APPROVED))
        with pytest.raises(NotFoundError):
            world.mo.send(world.mo.draft_create(Association(benchmark=10**6, model=world.unet.uid)))

    def test_results_are_final_and_not_for_everybody(self, world: World) -> None:
        with pytest.raises(InvalidEntityError):
            world.do.send(world.do.draft_create(world.result("too early")))
        world.associate()
        with pytest.raises(PermissionDeniedError):
            world.mo.send(world.mo.draft_create(world.result("of another's data")))
        run = sent(world.do, world.do.draft_create(world.result("run")), Result)
        assert not run.finalized
        scores = {"auc": 0.7, "odd": drafts.ODD}
        made = sent(world.do, world.do.draft_update(Result, run.uid, {"results": scores}), Result)
        assert made.finalized and made.results == scores
        with pytest.raises(InvalidEntityError):
            world.do.send(world.do.draft_update(Result, run.uid, {"results": {}}))
        assert world.bo.get(Result, run.uid).results == scores
        with pytest.raises((PermissionDeniedError, NotFoundError)):
            world.mo.get(Result, run.uid)
        assert list(world.mo.list(Result)) == []
        assert [each.uid for each in world.do.list(Result)] == [run.uid]

    def test_allow_lists_are_for_their_owner(self, world: World) -> None:
        assert world.bo.get(Benchmark, world.lungs.uid).model_auto_approval_allow_list == ["partner@example.org"]
        assert world.mo.get(Benchmark, world.lungs.uid).model_auto_approval_allow_list == []
        assert all(each.model_auto_approval_allow_list == [] for each in world.do.list(Benchmark))

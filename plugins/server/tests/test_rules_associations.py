"""Associations of models and datasets: who asks, who answers, what follows what; and who sees what."""

from __future__ import annotations

import attrs
import pytest
from medperf_server.rules import RefusedError, visibility

from medperf_core.entities import Association, Benchmark, Container, Dataset, Model
from medperf_core.errors import NotFoundError, PermissionDeniedError
from medperf_core.plugin import Party

SIDES = {"model": (2, "mo"), "dataset": (1, "do")}
both_parties = pytest.mark.parametrize("party", ["model", "dataset"])


def asked(party: str, status: str = "PENDING", **fields: object) -> Association:
    return Association(**{"benchmark": 1, party: SIDES[party][0], "approval_status": status, **fields})


def owner(world, party: str):
    return getattr(world, SIDES[party][1])


@both_parties
@pytest.mark.parametrize("last", [None, "PENDING", "APPROVED", "REJECTED"])
@pytest.mark.parametrize("wanted", ["PENDING", "APPROVED", "REJECTED"])
def test_what_can_follow_what(world, party, last, wanted):
    if last:
        world.put(asked(party, last), initiated_by=2)
    if (last, wanted) in {(None, "PENDING"), ("REJECTED", "PENDING"), ("APPROVED", "REJECTED")}:
        made = world.create(owner(world, party), asked(party, wanted, priority=7, approved_at="then"))
        assert (made.approval_status, made.initiated_by, made.priority) == (wanted, owner(world, party).id, 0)
        assert made.approved_at is None
    else:
        with pytest.raises(RefusedError):
            world.create(owner(world, party), asked(party, wanted))


@both_parties
@pytest.mark.parametrize("status", ["PENDING", "APPROVED", "REJECTED"])
@pytest.mark.parametrize("answer", ["APPROVED", "REJECTED"])
@pytest.mark.parametrize("by", ["who asked", "the other side"])
def test_answers(world, make, party, status, answer, by):
    world.put(asked(party, status), initiated_by=owner(world, party).id)
    actor = owner(world, party) if by == "who asked" else world.bo
    uid = SIDES[party][0]
    if status == "PENDING" and (answer == "REJECTED" or by == "the other side"):
        made = world.answer(actor, party, uid, approval_status=answer)
        assert (made.approval_status, made.approved_at) == (answer, make.NOW if answer == "APPROVED" else None)
        assert len(world.find(Association)) == 1
    else:
        with pytest.raises(RefusedError):
            world.answer(actor, party, uid, approval_status=answer)


@both_parties
def test_the_side_that_asks_binds_benchmark_owners_and_administrators_too(world, party):
    for actor in (world.bo, world.admin):
        world.create(actor, asked(party))
        with pytest.raises(RefusedError, match="who asked cannot approve"):
            world.answer(actor, party, SIDES[party][0], approval_status="APPROVED")
        world.answer(actor, party, SIDES[party][0], approval_status="REJECTED")


@both_parties
def test_pending_on_pending_changes_nothing(world, party):
    made = world.create(owner(world, party), asked(party))
    assert attrs.evolve(
        world.answer(world.bo, party, SIDES[party][0], approval_status="PENDING"), modified_at=None
    ) == attrs.evolve(made, modified_at=None)


@both_parties
def test_strangers_may_neither_ask_nor_answer(world, party):
    stranger = world.do if party == "model" else world.mo
    with pytest.raises(PermissionDeniedError):
        world.create(stranger, asked(party))
    world.create(owner(world, party), asked(party))
    with pytest.raises(PermissionDeniedError):
        world.answer(stranger, party, SIDES[party][0], approval_status="APPROVED")


@both_parties
def test_defect_2_an_answer_to_nothing_is_not_found(world, party):
    with pytest.raises(NotFoundError, match="no association"):
        world.answer(world.bo, party, SIDES[party][0], approval_status="APPROVED")
    with pytest.raises(NotFoundError, match="no benchmark 9"):
        world.answer(world.bo, party, SIDES[party][0], 9, approval_status="APPROVED")
    with pytest.raises(NotFoundError, match=f"no {party} 9"):
        world.create(world.bo, asked(party, **{party: 9}))


@both_parties
def test_defect_7_a_benchmark_in_development_takes_nobody(world, party):
    world.put(world.get(Benchmark, 1), state="DEVELOPMENT")
    with pytest.raises(RefusedError, match="in DEVELOPMENT, not in OPERATION"):
        world.create(owner(world, party), asked(party))


@both_parties
@pytest.mark.parametrize("status", ["PENDING", "REJECTED"])
def test_a_benchmark_that_is_not_approved_takes_nobody_but_lets_go(world, party, status):
    world.put(world.get(Benchmark, 1), approval_status=status)
    with pytest.raises(RefusedError, match="is not approved"):
        world.create(owner(world, party), asked(party))
    world.put(asked(party, "APPROVED"), initiated_by=2)
    assert world.create(owner(world, party), asked(party, "REJECTED")).approval_status == "REJECTED"


def test_models_and_datasets_must_be_operational_and_data_prepared_by_the_benchmarks_container(world, make):
    new = world.put(make.model("new", owner=3), owner=3)
    with pytest.raises(RefusedError, match="is in DEVELOPMENT"):
        world.create(world.mo, Association(benchmark=1, model=new.id))
    other = world.put(make.dataset("other", data_preparation_mlcube=2), owner=4)
    with pytest.raises(RefusedError) as caught:
        world.create(world.do, Association(benchmark=1, dataset=other.id))
    assert len(caught.value.problems) == 2 and "prepared by container 2" in str(caught.value)


@both_parties
@pytest.mark.parametrize(
    ("mode", "listed", "by", "status"),
    [
        ("NEVER", ["{owner}@example.org"], "owner", "PENDING"),
        ("ALWAYS", [], "owner", "APPROVED"),
        ("ALWAYS", [], "bo", "PENDING"),
        ("ALLOWLIST", ["{owner}@EXAMPLE.org "], "owner", "APPROVED"),
        ("ALLOWLIST", ["someone@example.org"], "owner", "PENDING"),
        ("ALLOWLIST", ["{owner}@example.org"], "bo", "PENDING"),
    ],
)
def test_auto_approval(world, make, party, mode, listed, by, status):
    name = SIDES[party][1]
    world.put(
        world.get(Benchmark, 1),
        **{
            f"{party}_auto_approval_mode": mode,
            f"{party}_auto_approval_allow_list": [each.format(owner=name) for each in listed],
        },
    )
    made = world.create(getattr(world, name if by == "owner" else by), asked(party))
    assert (made.approval_status, made.approved_at) == (status, make.NOW if status == "APPROVED" else None)


def test_nobody_without_an_address_is_on_a_list(world):
    world.put(world.mo, email="")
    world.put(world.get(Benchmark, 1), model_auto_approval_mode="ALLOWLIST", model_auto_approval_allow_list=["", " "])
    assert world.create(world.mo, asked("model")).approval_status == "PENDING"


def test_one_owner_of_both_sides_is_approved_at_once(world):
    assert world.create(world.bo, Association(benchmark=1, model=1)).approval_status == "APPROVED"


def test_priorities_are_the_benchmark_owners_and_of_models(associated):
    assert associated.answer(associated.bo, "model", 2, priority=5).priority == 5
    with pytest.raises(PermissionDeniedError):
        associated.answer(associated.mo, "model", 2, priority=5)
    with pytest.raises(RefusedError, match="only models have a priority"):
        associated.answer(associated.bo, "dataset", 1, priority=5)
    for wrong in ("high", True, None, 2**64):
        with pytest.raises(RefusedError):
            associated.answer(associated.bo, "model", 2, priority=wrong)
    with pytest.raises(RefusedError, match="must be one of"):
        associated.answer(associated.bo, "model", 2, approval_status="MAYBE")


def test_who_sees_results_and_users(associated, result):
    made = associated.create(associated.do, result())
    seen = [
        name for name in ("admin", "bo", "mo", "do") if visibility.may_see(getattr(associated, name), made, associated)
    ]
    assert seen == ["admin", "bo", "do"]
    seen = [
        name
        for name in ("admin", "bo", "mo", "do")  # bo owns the container that prepares do's dataset
        if visibility.may_see(getattr(associated, name), associated.do, associated)
    ]
    assert seen == ["admin", "bo", "do"]


def test_who_sees_allow_lists_and_reports(world):
    bench = world.put(world.get(Benchmark, 1), model_auto_approval_allow_list=["a@b"])
    data = world.put(world.get(Dataset, 1), report={"a": 1})
    people = [world.admin, world.bo, world.mo, world.do]
    lists = [visibility.shown(who, bench, world).model_auto_approval_allow_list for who in people]
    assert lists == [[], ["a@b"], [], []]
    assert [visibility.shown(who, data, world).report for who in people] == [{}, {"a": 1}, {}, {"a": 1}]
    assert visibility.shown(world.mo, world.get(Container, 1), world) == world.get(Container, 1)


def test_who_sees_participants(associated):
    bench = associated.get(Benchmark, 1)

    def sees(name: str, party: Party) -> bool:
        return visibility.may_see_participants(getattr(associated, name), bench, party, associated)

    assert [sees(name, Party.MODEL) for name in ("admin", "bo", "mo", "do")] == [True, True, False, True]
    assert [sees(name, Party.DATASET) for name in ("admin", "bo", "mo", "do")] == [True, True, True, False]
    associated.create(associated.do, asked("dataset", "REJECTED"))
    assert not sees("do", Party.MODEL) and associated.get(Model, 2)

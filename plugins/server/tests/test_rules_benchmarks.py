"""Users, datasets, benchmarks and results."""

from __future__ import annotations

import attrs
import pytest
from medperf_server import rules
from medperf_server.rules import RefusedError

from medperf_core.entities import Approval, Association, Benchmark, Dataset, Model, Result, User
from medperf_core.errors import NotFoundError, PermissionDeniedError

LIFE = ("PENDING", "APPROVED", "REJECTED")


def test_administrators_add_users_with_names_of_their_own(empty):
    assert empty.create(empty.admin, User(username="new", email="new@example.org")).id == 5
    with pytest.raises(PermissionDeniedError):
        empty.create(empty.bo, User(username="other"))
    with pytest.raises(RefusedError) as caught:
        empty.create(empty.admin, User(username="new", email="BO@example.org"))
    assert len(caught.value.problems) == 2


def test_users_change_their_metadata_only(empty):
    changed = empty.update(empty.bo, empty.bo, metadata={"a": 1}, username="root", is_admin=True)
    assert (changed.metadata, changed.username, changed.is_admin) == ({"a": 1}, "bo", False)
    with pytest.raises(PermissionDeniedError):
        empty.update(empty.bo, empty.mo, metadata={})


def test_a_dataset_starts_in_development(world, make):
    assert world.create(world.do, make.dataset("new", state="OPERATION")).state == "DEVELOPMENT"
    with pytest.raises(RefusedError, match="no container 99"):
        world.create(world.do, make.dataset("new", data_preparation_mlcube=99))


def test_prepared_data_is_operational_once(world, make):
    twin = world.create(world.mo, make.dataset("hospital"))  # dataset 1 is operational with the same generated_uid
    with pytest.raises(RefusedError, match=r"dataset 1 \('hospital'\) is operational"):
        world.update(world.mo, twin, state="OPERATION")
    changed = world.update(world.mo, twin, state="OPERATION", generated_uid="other", generated_metadata={"n": 1})
    assert changed.state == "OPERATION"
    with pytest.raises(RefusedError, match="in OPERATION its report"):
        world.update(world.mo, changed, report={"progress": 1})


def test_a_benchmark_names_all_that_is_missing(world, make):
    with pytest.raises(RefusedError) as caught:
        world.create(
            world.mo,
            make.benchmark(
                "lungs",
                data_preparation_mlcube=8,
                data_evaluator_mlcube=9,
                reference_model=7,
                demo_dataset_tarball_hash="",
            ),
        )
    assert len(caught.value.problems) == 5


def test_a_benchmark_is_made_pending_and_one_at_a_time(world, make):
    made = world.create(world.mo, make.benchmark("b", approval_status="APPROVED", approved_at="then"))
    assert (made.approval_status, made.approved_at) == ("PENDING", None)
    with pytest.raises(RefusedError, match="mo has a pending benchmark already"):
        world.create(world.mo, make.benchmark("c"))
    world.update(world.admin, made, approval_status="REJECTED")
    world.create(world.mo, make.benchmark("c"))


@pytest.mark.parametrize("way", ["create", "update"])
def test_an_operational_benchmark_needs_operational_parts(empty, make, way):
    empty.create(empty.bo, make.container("prep"))
    empty.put(make.container("metrics", state="OPERATION"), owner=2)
    empty.create(empty.bo, make.model("reference"))
    with pytest.raises(RefusedError) as caught:
        if way == "create":
            empty.create(empty.bo, make.benchmark("b", state="OPERATION"))
        else:
            empty.update(empty.bo, empty.create(empty.bo, make.benchmark("b")), state="OPERATION")
    assert [problem.split("(")[-1].split(")")[0] for problem in caught.value.problems] == [
        "data_preparation_mlcube",
        "reference_model",
    ]


@pytest.mark.parametrize("before", LIFE)
@pytest.mark.parametrize("after", LIFE)
def test_approval_of_benchmarks(world, before, after):
    kept = world.put(world.get(Benchmark, 1), approval_status=before, approved_at="then")
    allowed = before == after or (before, after) in {
        ("PENDING", "APPROVED"),
        ("PENDING", "REJECTED"),
        ("APPROVED", "REJECTED"),
    }
    if not allowed:
        with pytest.raises(RefusedError):
            world.update(world.admin, kept, approval_status=after)
        return
    changed = world.update(world.admin, kept, approval_status=after)
    stamp = "then" if before == after else (changed.modified_at if after == "APPROVED" else None)
    assert (changed.approval_status, changed.approved_at) == (after, stamp)


def test_only_administrators_approve_benchmarks(world):
    with pytest.raises(PermissionDeniedError, match="administrators may"):
        world.update(world.bo, world.get(Benchmark, 1), approval_status="APPROVED")


@pytest.mark.parametrize(
    ("changes", "fine"),
    [
        ({"is_active": False, "is_valid": False, "user_metadata": {"a": 1}}, True),
        ({"demo_dataset_tarball_url": "https://elsewhere"}, True),
        (
            {
                "dataset_auto_approval_mode": "ALWAYS",
                "model_auto_approval_mode": "ALLOWLIST",
                "dataset_auto_approval_allow_list": ["a@b"],
                "model_auto_approval_allow_list": [],
            },
            True,
        ),
        ({"description": "new"}, False),
        ({"reference_model": 2}, False),
        ({"demo_dataset_tarball_hash": "0" * 64}, False),
        ({"model_auto_approval_allow_list": [1]}, False),
        ({"dataset_auto_approval_mode": "SOMETIMES"}, False),
    ],
)
def test_what_an_operational_benchmark_lets_change(world, changes, fine):
    if fine:
        world.update(world.bo, world.get(Benchmark, 1), **changes)
    else:
        with pytest.raises(RefusedError):
            world.update(world.bo, world.get(Benchmark, 1), **changes)


@pytest.mark.parametrize("model", LIFE)
@pytest.mark.parametrize("data", LIFE)
def test_results_need_two_approved_associations(associated, result, model, data):
    for uid, status in ((1, model), (2, data)):
        associated.put(associated.get(Association, uid), approval_status=status)
    if model == data == "APPROVED":
        assert associated.create(associated.do, result()).owner == 4
    else:
        with pytest.raises(RefusedError) as caught:
            associated.create(associated.do, result())
        assert len(caught.value.problems) == (model != "APPROVED") + (data != "APPROVED")


def test_the_reference_model_needs_no_association(world, result):
    made = world.create(world.do, result(model=1, results={"a": 1}, finalized=True, approval_status="APPROVED"))
    assert (made.finalized, made.approval_status, made.results) == (False, "PENDING", {"a": 1})


def test_results_are_the_data_owners_to_register(associated, result):
    for actor in (associated.mo, associated.bo):
        with pytest.raises(PermissionDeniedError):
            associated.create(actor, result())
    with pytest.raises(NotFoundError, match="no model 8 and no dataset 9"):
        associated.create(associated.do, result(model=8, dataset=9))


def test_results_are_finalized_once(associated, result, make):
    made = associated.create(associated.do, result())
    made = associated.update(associated.do, made, model_report={"execution_status": "started"})
    assert not made.finalized
    made = associated.update(associated.do, made, results={"auc": 0.9}, metadata={"partial": False}, finalized=False)
    assert (made.finalized, made.finalized_at, made.results) == (True, make.NOW, {"auc": 0.9})
    for changes in ({"results": {"auc": 1.0}}, {"name": "x"}, {}):
        with pytest.raises(RefusedError, match="finalized"):
            associated.update(associated.do, made, **changes)


@pytest.mark.parametrize("field", ["benchmark", "model", "dataset"])
def test_a_result_stays_where_it_belongs(associated, result, field):
    made = associated.create(associated.do, result())
    with pytest.raises(RefusedError, match=f"its {field} cannot change"):
        associated.update(associated.do, made, **{field: 7})


def test_defect_7_a_data_owner_cannot_approve_own_results(associated, result, make):
    made = associated.create(associated.do, result())
    with pytest.raises(PermissionDeniedError):
        associated.update(associated.do, made, approval_status="APPROVED")
    own = associated.put(attrs.evolve(associated.get(Dataset, 1), owner=1))
    with pytest.raises(PermissionDeniedError):
        associated.update(associated.admin, made, approval_status="APPROVED")
    associated.put(own, owner=4)
    assert associated.update(associated.admin, made, approval_status="APPROVED").approved_at == make.NOW


@pytest.mark.parametrize("kind", [Model, Dataset, Benchmark, Result, User])
def test_defect_2_missing_objects_are_not_found(world, kind):
    with pytest.raises(NotFoundError):
        rules.update(world.bo, kind, 99, {}, world, "now")
    assert world.get(Benchmark, 1).approval_status is Approval.APPROVED

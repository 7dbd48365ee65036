"""Containers, assets and models: uniqueness, OPERATION, and what a model wraps."""

from __future__ import annotations

import attrs
import pytest
from medperf_server import rules
from medperf_server.rules import RefusedError

from medperf_core.entities import Asset, Container, Model
from medperf_core.errors import InvalidEntityError, NotFoundError, PermissionDeniedError


def test_a_new_container_is_the_actors_whatever_it_says(empty, make):
    made = rules.create(empty.mo, make.container("a", id=77, owner=1, created_at="x"), empty, make.NOW)
    assert (made.id, made.owner, made.created_at, made.modified_at) == (None, 3, make.NOW, make.NOW)


def test_all_reasons_are_given_at_once(empty, make):
    empty.create(empty.mo, make.container("a"))
    with pytest.raises(RefusedError) as caught:
        empty.create(empty.bo, make.container("a", container_config={"name": "a"}, image_hash=" "))
    assert len(caught.value.problems) == 2
    assert "name 'a' already" in str(caught.value) and "hash of its image" in str(caught.value)
    assert isinstance(caught.value, InvalidEntityError)


@pytest.mark.parametrize("parameters", [None, {"size": 1}], ids=["null parameters (defect 5)", "parameters"])
def test_the_same_content_under_another_name_is_refused(empty, make, parameters):
    first = make.container("a", parameters_config=parameters)
    empty.create(empty.mo, first)
    with pytest.raises(RefusedError, match=r"container 1 \('a'\) has the same image"):
        empty.create(empty.bo, attrs.evolve(first, name="b"))


def test_contents_that_json_tells_apart_are_different(empty, make):
    for name, value in (("a", 1), ("b", True), ("c", 1.0)):
        empty.create(empty.mo, make.container(name, container_config={"x": value}))


def test_names_are_case_sensitive(empty, make):
    empty.create(empty.mo, make.container("a"))
    empty.create(empty.mo, make.container("A"))


@pytest.mark.parametrize(
    ("changes", "fine"),
    [
        ({"is_valid": False}, True),
        ({"user_metadata": {"a": 1}}, True),
        ({"additional_files_tarball_url": "https://elsewhere"}, True),
        ({"name": "c", "state": "OPERATION"}, True),  # the same values
        ({"name": "other"}, False),
        ({"metadata": {"a": 1}}, False),
        ({"state": "DEVELOPMENT"}, False),
        ({"container_config": {"other": 1}}, False),
        ({"image_hash": "sha256:other"}, False),
    ],
)
def test_what_a_container_in_operation_lets_change(empty, make, changes, fine):
    kept = empty.put(
        make.container(
            "c", state="OPERATION", additional_files_tarball_url="https://here", additional_files_tarball_hash=make.HASH
        ),
        owner=3,
    )
    if fine:
        changed = empty.update(empty.mo, kept, **changes)
        assert all(getattr(changed, name) == value for name, value in changes.items())
    else:
        with pytest.raises(RefusedError, match="in OPERATION its"):
            empty.update(empty.mo, kept, **changes)


def test_in_development_everything_changes_but_what_the_server_makes(empty, make):
    kept = empty.put(make.container("c", created_at="then"), owner=3)
    changed = empty.update(
        empty.mo,
        kept,
        name="d",
        image_hash="sha256:x",
        state="OPERATION",
        id=9,
        owner=1,
        created_at="never",
        unknown=True,
        metadata=None,
    )
    assert (changed.id, changed.owner, changed.created_at, changed.name) == (1, 3, "then", "d")
    assert changed.modified_at == make.NOW and changed.state == "OPERATION" and changed.metadata == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"is_valid": "yes"},
        {"name": 5},
        {"name": "  "},
        {"state": "DONE"},
        {"container_config": None},
        {"additional_files_tarball_url": "https://x"},
    ],
)
def test_wrong_values_are_refused(empty, make, changes):
    kept = empty.put(make.container("c"), owner=3)
    with pytest.raises(RefusedError):
        empty.update(empty.mo, kept, **changes)


def test_a_rename_to_a_taken_name_is_refused(empty, make):
    empty.create(empty.mo, make.container("a"))
    with pytest.raises(RefusedError, match="name 'a' already"):
        empty.update(empty.mo, empty.create(empty.mo, make.container("b")), name="a")


def test_only_the_owner_and_administrators_change_it(empty, make):
    kept = empty.create(empty.mo, make.container("a"))
    with pytest.raises(PermissionDeniedError, match="bo may not change container 1"):
        empty.update(empty.bo, kept, is_valid=False)
    assert not empty.update(empty.admin, kept, is_valid=False).is_valid


def test_a_missing_container_is_not_found_for_everybody(empty):
    with pytest.raises(NotFoundError, match="no container 9"):
        rules.update(empty.mo, Container, 9, {}, empty, "now")


def test_assets_have_unique_names_and_a_hash(empty, make):
    empty.create(empty.mo, Asset(name="a", asset_hash=make.HASH, asset_url="local"))
    with pytest.raises(RefusedError) as caught:
        empty.create(empty.mo, Asset(name="a", asset_hash="", asset_url="local"))
    assert len(caught.value.problems) == 2


def test_a_model_and_its_container_are_made_together_and_both_judged(empty, make):
    made = empty.create(empty.mo, make.model("m"))
    assert made.container.id == 1 and made.container.owner == made.owner == 3
    with pytest.raises(RefusedError) as caught:
        empty.create(empty.bo, make.model("m"))
    assert [problem.startswith("container: ") for problem in caught.value.problems] == [False, True, True]


def test_a_models_state_and_validity_are_those_of_what_it_wraps(empty, make):
    made = empty.create(empty.mo, make.model("m"))
    changed = empty.update(empty.mo, made, state="OPERATION", is_valid=False)
    assert empty.get(Container, 1).state == changed.state == "OPERATION"
    assert not empty.get(Container, 1).is_valid


def test_a_wrapped_container_takes_its_state_from_the_model(empty, make):
    made = empty.create(empty.mo, make.model("m"))
    with pytest.raises(RefusedError, match=r"model 1 \('m'\) wraps it; change state there"):
        empty.update(empty.mo, made.container, state="OPERATION")
    assert empty.update(empty.mo, made.container, image_hash="sha256:y").image_hash == "sha256:y"


@pytest.mark.parametrize("changes", [{"container": 1}, {"container": {"name": "x"}}, {"asset": 1}, {"container": None}])
def test_defect_1_a_model_cannot_be_pointed_at_another_container(empty, make, changes):
    empty.create(empty.bo, make.container("victim"))
    made = empty.create(empty.mo, make.model("m"))
    with pytest.raises(RefusedError, match="cannot be replaced"):
        empty.update(empty.mo, made, **changes)
    assert empty.update(empty.mo, made, container=2).container.id == 2  # its own, as public clients send it


def test_defect_1_the_type_of_a_model_cannot_change(empty, make):
    with pytest.raises(RefusedError, match="type cannot change"):
        empty.update(empty.mo, empty.create(empty.mo, make.model("m")), type="ASSET")
    with pytest.raises(RefusedError, match="type cannot change"):
        empty.update(empty.mo, empty.create(empty.mo, make.asset_model("a")), type="CONTAINER")


@pytest.mark.parametrize("changes", [{"name": "n"}, {"metadata": {"a": 1}}, {"state": "DEVELOPMENT"}])
def test_what_a_model_in_operation_does_not_let_change(world, changes):
    with pytest.raises(RefusedError, match="in OPERATION"):
        world.update(world.mo, world.get(Model, 2), **changes)

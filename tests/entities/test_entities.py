"""Validation of the nouns, and their way to plain data and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medperf_core.entities import Association, Benchmark, Container, IdentityKind, ImageIdentity, Model, State
from medperf_core.entities.checks import json_problem
from medperf_core.entities.codec import from_data, to_data, to_json
from medperf_core.errors import InvalidEntityError

HASH = "a" * 64
CONTAINER: dict[str, Any] = {"name": "c", "container_config": {"tasks": {"infer": {}}}}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
def test_entities_survive_json(config: dict[str, Any]) -> None:
    model = Model.wrapping(Container(name="c", container_config=config, image_hash="sha256:" + HASH, metadata={"x": 1}))
    assert from_data(json.loads(to_json(model)), Model) == model


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": ""}, "blank"),
        ({"name": "x" * 129}, "129"),
        ({"name": "a\x00b"}, "control"),
        ({"id": 0}, "UID"),
        ({"id": True}, "UID"),
        ({"additional_files_tarball_url": "https://x"}, "go together"),
        ({"additional_files_tarball_url": "u", "additional_files_tarball_hash": "XYZ"}, "SHA-256"),
        ({"container_config": []}, "map"),
        ({"metadata": {"x": float("nan")}}, "nan"),
        ({"metadata": {1: 2}}, "not text"),
    ],
)
def test_what_breaks_a_rule_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidEntityError, match=word):
        Container(**{**CONTAINER, **change})


def test_data_from_outside_is_strict_and_names_the_place() -> None:
    data = to_data(Container(**CONTAINER))
    with pytest.raises(InvalidEntityError) as caught:
        from_data({**data, "name": 5, "is_valid": "yes", "surprise": 1}, Container)
    text = str(caught.value)
    assert "name" in text and "is_valid" in text and "surprise" in text
    assert from_data({**data, "surprise": 1}, Container, allow_unknown=True).name == "c"


def test_a_rule_broken_from_outside_is_an_error_of_ours() -> None:
    data = to_data(Container(**CONTAINER))
    with pytest.raises(InvalidEntityError, match="128"):
        from_data({**data, "name": "x" * 200}, Container)


def test_a_model_wraps_exactly_one_thing_of_its_own_state() -> None:
    container = Container(**CONTAINER, state=State.OPERATION)
    assert Model.wrapping(container).state is State.OPERATION
    with pytest.raises(InvalidEntityError, match="exactly one"):
        Model(name="m")
    with pytest.raises(InvalidEntityError, match="state"):
        Model(name="m", container=container, state=State.DEVELOPMENT)


def test_an_association_has_one_partner() -> None:
    with pytest.raises(InvalidEntityError):
        Association(benchmark=1)
    with pytest.raises(InvalidEntityError):
        Association(benchmark=1, model=1, dataset=1)


def test_a_benchmark_needs_its_parts() -> None:
    with pytest.raises((InvalidEntityError, TypeError)):
        Benchmark(
            name="b",
            demo_dataset_tarball_url="u",
            demo_dataset_tarball_hash=HASH,
            demo_dataset_generated_uid="x",
            data_preparation_mlcube=None,  # type: ignore[arg-type]
            reference_model=1,
            data_evaluator_mlcube=1,
        )


@pytest.mark.parametrize(
    "text", ["", "config", "config:sha256:12", f"md5:sha256:{HASH}", f"config:{HASH}", f"config:sha256:{HASH.upper()}"]
)
def test_what_is_no_identity(text: str) -> None:
    with pytest.raises(InvalidEntityError):
        ImageIdentity.parse(text)


@pytest.mark.parametrize("kind", IdentityKind)
def test_identities_of_different_kinds_never_equal(kind: IdentityKind) -> None:
    one = ImageIdentity(kind, "sha256:" + HASH)
    assert ImageIdentity.parse(str(one)) == one
    assert [other for other in IdentityKind if ImageIdentity(other, one.digest) == one] == [kind]


def test_json_deeper_than_allowed_is_refused() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    assert json_problem(deep) is not None and "deeper" in str(json_problem(deep))


@pytest.mark.parametrize(
    "metadata",
    [{"sources": []}, {"sources": {"mlcube": "https://x"}}, {"sources": {"mlcube": {"url": "u", "sha256": "short"}}}],
)
def test_malformed_sources_are_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(InvalidEntityError):
        Container(**CONTAINER, metadata=metadata).sources()

"""Settings: option over variable over profile over default; secrets and unknown keys refused."""

from __future__ import annotations

import attrs
import pytest

from medperf_core.errors import ConfigurationError
from medperf_core.plugin.settings import fields_of, make_settings, setting


@attrs.frozen
class Engine:
    shm_size: str | None = setting(None, "Size of /dev/shm.")
    retries: int = setting(3, "How often to try.")
    verify: bool = setting(True, "Whether to verify.")
    build_args: tuple[str, ...] = setting((), "Arguments of a build.")
    token: str = setting("", "A token.", secret=True)


def made(
    options: dict[str, object] | None = None,
    environment: dict[str, str] | None = None,
    profile: dict[str, object] | None = None,
) -> Engine:
    return make_settings(
        "my-engine", Engine, options=options or {}, environment=environment or {}, profile=profile or {}
    )


def test_names_are_made_from_the_field() -> None:
    field = fields_of("my-engine", Engine)[0]
    assert (field.option, field.variable, field.help) == (
        "--my-engine-shm-size",
        "MEDPERF_MY_ENGINE_SHM_SIZE",
        "Size of /dev/shm.",
    )


def test_option_over_variable_over_profile_over_default() -> None:
    assert made().retries == 3
    assert made(profile={"retries": 4}).retries == 4
    assert made(profile={"retries": 4}, environment={"MEDPERF_MY_ENGINE_RETRIES": "5"}).retries == 5
    assert (
        made(profile={"retries": 4}, environment={"MEDPERF_MY_ENGINE_RETRIES": "5"}, options={"retries": 6}).retries
        == 6
    )


def test_an_option_that_was_not_given_hides_nothing() -> None:
    assert made(options={"build_args": (), "retries": None}, profile={"build_args": ["A=1"], "retries": 9}) == Engine(
        retries=9, build_args=("A=1",)
    )


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("off", False), ("0", False), ("TRUE", True)])
def test_booleans(text: str, value: bool) -> None:
    assert made(environment={"MEDPERF_MY_ENGINE_VERIFY": text}).verify is value


def test_lists_from_a_variable() -> None:
    assert made(environment={"MEDPERF_MY_ENGINE_BUILD_ARGS": "A=1, B=2"}).build_args == ("A=1", "B=2")


@pytest.mark.parametrize(
    "profile",
    [{"retries": "many"}, {"retries": True}, {"verify": "perhaps"}, {"build_args": {"A": 1}}, {"shm_size": [1]}],
)
def test_wrong_types_name_the_place(profile: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(profile))):
        made(profile=profile)


def test_an_unknown_key_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"my-engine\.shm.*shm_size"):
        made(profile={"shm": "2g"})


def test_a_secret_is_refused_in_a_profile_and_taken_from_its_variable() -> None:
    with pytest.raises(ConfigurationError, match="MEDPERF_MY_ENGINE_TOKEN"):
        made(profile={"token": "hush"})
    assert made(environment={"MEDPERF_MY_ENGINE_TOKEN": "hush"}).token == "hush"

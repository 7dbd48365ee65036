"""Guarantees are given, waived by name, or the task is refused."""

from __future__ import annotations

import pytest

from medperf_core.entities import IdentityKind, ImageIdentity
from medperf_core.errors import IsolationError, UsageError
from medperf_core.plugin.isolation import WAIVERS, Capabilities, Enforcement, Guarantee, Limit, Waiver, check_isolation

TRUSTED = ImageIdentity(IdentityKind.SOURCE, "sha256:" + "a" * 64)
OTHER = ImageIdentity(IdentityKind.SOURCE, "sha256:" + "b" * 64)
CLOSED = Capabilities("closed 1", frozenset(Guarantee), {Limit.MEMORY: Enforcement.ENGINE})
OPEN = Capabilities("open 1", frozenset())


def test_a_closed_engine_needs_no_waiver() -> None:
    assert check_isolation(CLOSED, [OTHER], [Waiver.parse("no-isolation")], [Limit.MEMORY]) == ()


def test_an_open_engine_is_refused_and_the_waiver_named() -> None:
    with pytest.raises(IsolationError, match="--allow no-isolation"):
        check_isolation(OPEN, [TRUSTED], [])


def test_the_waiver_is_recorded() -> None:
    assert check_isolation(OPEN, [TRUSTED], [Waiver.parse("no-isolation")]) == ("no-isolation",)


def test_a_waiver_for_one_image_holds_for_no_other() -> None:
    waiver = Waiver.parse(f"no-isolation={TRUSTED}")
    assert str(waiver) == f"no-isolation={TRUSTED}"
    assert check_isolation(OPEN, [TRUSTED], [waiver]) == ("no-isolation",)
    with pytest.raises(IsolationError):
        check_isolation(OPEN, [OTHER], [waiver])


@pytest.mark.parametrize("missing", Guarantee)
def test_each_missing_guarantee_has_its_own_waiver(missing: Guarantee) -> None:
    capabilities = Capabilities("nearly 1", frozenset(Guarantee) - {missing})
    with pytest.raises(IsolationError) as caught:
        check_isolation(capabilities, [OTHER], [])
    (name,) = [word for word in WAIVERS if f"--allow {word} " in str(caught.value) + " "]
    assert name != "no-isolation"
    assert check_isolation(capabilities, [OTHER], [Waiver.parse(name)]) == (name,)


def test_a_limit_that_nobody_holds_is_refused_only_when_asked_for() -> None:
    capabilities = Capabilities("nearly 1", frozenset(Guarantee), {Limit.MEMORY: Enforcement.NONE})
    assert check_isolation(capabilities, [OTHER], []) == ()
    with pytest.raises(IsolationError, match="no-time-limit"):
        check_isolation(capabilities, [OTHER], [], [Limit.TIME])
    with pytest.raises(IsolationError, match="no-memory-limit"):
        check_isolation(capabilities, [OTHER], [], [Limit.MEMORY])


def test_unknown_waivers_list_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no-isolation"):
        Waiver.parse("everything")

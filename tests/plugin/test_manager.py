"""Discovery, isolation of broken plugins, blocking, conflicts, policies and observers."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from medperf_core.errors import DeniedError, PluginError
from medperf_core.plugin import Action, Decision, PolicySubject, RunnerPlugin, StepStarted, StoragePlugin, hookimpl
from medperf_core.plugin.manager import PluginManager

SUBJECT = PolicySubject(what="task infer of a model")


def runner(name: str, api: int = 1, aliases: tuple[str, ...] = ()) -> RunnerPlugin:
    return RunnerPlugin(name=name, summary="for tests", api=api, aliases=aliases, make=lambda settings, context: None)


class Runners:
    def __init__(self, *descriptors: object) -> None:
        self._descriptors = descriptors

    @hookimpl
    def medperf_runners(self) -> tuple[object, ...]:
        return self._descriptors


class Policy:
    def __init__(self, answer: Callable[[], object]) -> None:
        self._answer = answer

    @hookimpl
    def medperf_policy(self, action: Action, subject: PolicySubject) -> object:
        return self._answer()


@pytest.fixture
def empty() -> PluginManager:
    return PluginManager([])


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], EntryPoint]:
    """Make an importable module and an entry point that names it."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, text: str) -> EntryPoint:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return EntryPoint(name=name, value=name, group="medperf")

    return make


def test_first_party_backends_are_found_by_entry_point() -> None:
    found = {(item.seam, item.name) for item in PluginManager.discover().descriptors()}
    assert {
        ("runner", "process"),
        ("packager", "mlcube"),
        ("packager", "container-config"),
        ("storage", "file"),
        ("executor", "local"),
    } <= found


@pytest.mark.parametrize(
    "text", ["raise RuntimeError('no luck')", "import not_there_at_all", "raise SystemExit(3)", "def broken(:"]
)
def test_a_broken_module_is_remembered_and_breaks_nothing(module: Callable[[str, str], EntryPoint], text: str) -> None:
    good = module(
        "good_one",
        """
        from medperf_core.plugin import RunnerPlugin, hookimpl
        @hookimpl
        def medperf_runners():
            yield RunnerPlugin(name="good", summary="", api=1, make=lambda settings, context: None)
    """,
    )
    manager = PluginManager([module("broken_one", text), good])
    records = {record.name: record for record in manager.records()}
    assert records["broken_one"].status == "failed"
    assert records["broken_one"].reason
    assert records["good_one"].provides == ("runner good",)
    assert manager.get(RunnerPlugin, "good").name == "good"


def test_a_blocked_plugin_is_not_imported(module: Callable[[str, str], EntryPoint]) -> None:
    entry = module("barred_one", "raise RuntimeError('imported')")
    manager = PluginManager([entry], blocked=["barred-one"])
    assert [(record.status, record.reason) for record in manager.records()] == [("blocked", "blocked by the site")]
    assert "barred_one" not in sys.modules


def test_an_unknown_hook_is_a_failure(module: Callable[[str, str], EntryPoint]) -> None:
    entry = module(
        "odd_one",
        """
        from medperf_core.plugin import hookimpl
        @hookimpl
        def medperf_unheard_of():
            return 1
    """,
    )
    (record,) = PluginManager([entry]).records()
    assert (record.status, "medperf_unheard_of" in record.reason) == ("failed", True)


def test_wrong_hook_arguments_are_a_failure(empty: PluginManager) -> None:
    class Wrong:
        @hookimpl
        def medperf_event(self, event: object, more: object) -> None: ...

    with pytest.raises(PluginError, match="more"):
        empty.add(Wrong(), "wrong")


def test_another_api_version_is_refused_with_both_versions(empty: PluginManager) -> None:
    empty.add(Runners(runner("old", api=99), runner("fine")), "mixed")
    with pytest.raises(PluginError, match="99"):
        empty.get(RunnerPlugin, "old")
    (record,) = empty.records()
    assert "API 99" in record.reason and "API 1" in record.reason


def test_unknown_names_list_the_known_ones_and_what_to_install(empty: PluginManager) -> None:
    empty.add(Runners(runner("mine")), "plugin")
    with pytest.raises(PluginError) as caught:
        empty.get(RunnerPlugin, "singularity")
    assert "mine" in str(caught.value)
    assert "pip install medperf-singularity" in str(caught.value)


def test_two_plugins_of_one_name_are_a_conflict_that_names_both(empty: PluginManager) -> None:
    empty.add(Runners(runner("same")), "first")
    empty.add(Runners(runner("other", aliases=("same",))), "second")
    with pytest.raises(PluginError, match=r"first .* and second"):
        empty.get(RunnerPlugin, "same")


def test_a_scheme_selects_its_store() -> None:
    assert PluginManager.discover().for_scheme(StoragePlugin, "file").name == "file"


@pytest.mark.parametrize("answer", [lambda: Decision(False, "not today"), lambda: None, lambda: True, lambda: 1 / 0])
def test_a_policy_that_does_not_clearly_allow_denies(empty: PluginManager, answer: Callable[[], object]) -> None:
    empty.add(Policy(lambda: Decision(True)), "kind")
    empty.decide(Action.RUN, SUBJECT)
    empty.add(Policy(answer), "strict")
    with pytest.raises(DeniedError, match="strict"):
        empty.decide(Action.RUN, SUBJECT)


def test_a_required_plugin_that_is_missing_or_broken_denies(
    empty: PluginManager, module: Callable[[str, str], EntryPoint]
) -> None:
    with pytest.raises(DeniedError, match="guard"):
        empty.require(["guard"])
    with pytest.raises(DeniedError, match="guard_one"):
        PluginManager([module("guard_one", "raise ValueError")]).require(["guard_one"])
    empty.add(Policy(lambda: Decision(True)), "guard")
    empty.require(["guard"])


def test_an_observer_that_fails_breaks_nothing(empty: PluginManager) -> None:
    seen: list[object] = []

    class Bad:
        @hookimpl
        def medperf_event(self, event: object) -> None:
            raise RuntimeError("boom")

    class Good:
        @hookimpl
        def medperf_event(self, event: object) -> None:
            seen.append(event)

    empty.add(Bad(), "bad")
    empty.add(Good(), "good")
    empty.notify(StepStarted("x"))
    assert seen == [StepStarted("x")]

"""The compatibility test: mixes of UIDs and paths, reuse, policies, waivers, failures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from medperf_examples import wdbc

from medperf_core import Site, SiteOptions
from medperf_core.errors import (
    DeniedError,
    ExecutionError,
    InvalidEntityError,
    IsolationError,
    TimeLimitError,
    UsageError,
    VerificationError,
)
from medperf_core.journeys.compatibility import run_test
from medperf_core.plugin import Action, Decision, Event, PolicySubject, StepFinished, TaskLog, hookimpl
from medperf_core.plugin.digest import file_digest

from .conftest import Tutorial

ALLOWED = SiteOptions(platform="process", allow=("no-isolation",))


def edit(folder: Path, change: Callable[[str], str], name: str = "project/main.py") -> Path:
    """A changed copy of a container."""
    copy = folder.with_name(folder.name + "_changed")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / name
    path.write_text(change(path.read_text()))
    (copy / "container_config.yaml").unlink()
    return copy


def test_results_and_record(shared: Tutorial) -> None:
    with shared.site() as site:
        report = run_test(site, benchmark=1, model=str(shared.model), fresh=True)
        assert report.results["auc"]["value"] == pytest.approx(0.9522, abs=1e-3)
        assert report.statistics
        assert [step.task for step in report.steps] == ["prepare", "sanity_check", "statistics", "infer", "evaluate"]
        for step in report.steps:
            assert step.images[0].startswith("source:sha256:")
            assert step.inputs and all(digest.startswith("sha256:") for digest in step.inputs.values())
            assert step.parameters.startswith("sha256:")
            assert step.engine.startswith("process")
            assert step.waivers == ["no-isolation"]
            assert step.started and step.seconds > 0
        assert report.demo_dataset["hash"] == file_digest(shared.folder / "demo_dataset.tar.gz")
        assert report.versions["medperf-core"] and report.versions["python"]
        assert site.records.get(report.uid) == report


def test_unchanged_steps_are_reused_and_said(shared: Tutorial) -> None:
    events: list[Event] = []
    with shared.site(on_event=events.append) as site:
        first = run_test(site, benchmark=1, model=str(shared.model))
        events.clear()
        second = run_test(site, benchmark=1, model=str(shared.model))
        assert [step.reused for step in second.steps] == [True] * 5
        assert second.results == first.results
        assert site.records.get(first.uid) == first, "a later test replaced a report"
        notes = [event.note for event in events if isinstance(event, StepFinished) and "of" in event.what]
        assert sum("reused" in note for note in notes) == 5
        assert not any(isinstance(event, TaskLog) for event in events)


def test_a_changed_model_runs_again_and_only_what_depends_on_it(shared: Tutorial) -> None:
    changed = edit(shared.folder / "model_mlp", lambda text: text + "\n# changed\n")
    with shared.site(options=ALLOWED) as site:
        run_test(site, benchmark=1, model=str(shared.model))
        report = run_test(site, benchmark=1, model=str(changed))
        reused = {step.task: step.reused for step in report.steps}
        assert reused == {"prepare": True, "sanity_check": True, "statistics": True, "infer": False, "evaluate": True}


def test_kept_outputs_that_were_changed_are_not_reused(shared: Tutorial) -> None:
    with shared.site() as site:
        run_test(site, benchmark=1, model=str(shared.model))
        for results in site.home.cache_dir.glob("steps/*/outputs/output_path/results.yaml"):
            results.write_text("auc: {value: 1.0}\n")
        report = run_test(site, benchmark=1, model=str(shared.model))
        assert report.results["cases"] == 30
        assert not report.steps[-1].reused


def test_a_changed_model_is_not_covered_by_the_tutorial_s_waiver(shared: Tutorial) -> None:
    changed = edit(shared.folder / "model_mlp", lambda text: text + "\n# not the tutorial's\n")
    with shared.site() as site, pytest.raises(IsolationError, match="--allow no-isolation"):
        run_test(site, benchmark=1, model=str(changed))


def test_fully_local_without_a_server(shared: Tutorial, tmp_path: Path) -> None:
    containers = {name: str(path / "mlcube") for name, path in wdbc.containers().items()}
    hospital = wdbc.hospital("hospital_b")
    with Site.open(tmp_path / "home", options=ALLOWED) as site:
        assert site.profile.server == ""
        report = run_test(
            site,
            data_preparator=containers["data_preparator"],
            model=containers["model_logreg"],
            evaluator=containers["metrics"],
            data_path=hospital.data_path,
            labels_path=hospital.labels_path,
        )
        assert report.benchmark is None
        assert report.results["auc"]["value"] > 0.95


def test_a_mix_of_paths_and_uids(shared: Tutorial) -> None:
    with shared.site(options=ALLOWED) as site:
        report = run_test(
            site,
            benchmark=1,
            data_preparator=str(shared.folder / "data_preparator" / "mlcube"),
            evaluator="3",
            model="2",
        )
        assert (report.model, report.evaluator) == ("2", "3")


def test_a_folder_with_two_manifests_is_not_guessed(shared: Tutorial) -> None:
    with shared.site() as site, pytest.raises(UsageError, match=r"container_config\.yaml, mlcube/mlcube\.yaml"):
        run_test(site, benchmark=1, model=str(shared.folder / "model_mlp"))


def test_what_nobody_names_is_asked_for(tmp_path: Path, shared: Tutorial) -> None:
    with Site.open(tmp_path / "home", options=ALLOWED) as site:
        with pytest.raises(UsageError, match="--data_preparation and --evaluator"):
            run_test(site, model=str(shared.model))
        with pytest.raises(UsageError, match="no data"):
            run_test(site, model=str(shared.model), data_preparator="./x", evaluator="./y")


def test_another_demo_dataset_with_a_wrong_hash(shared: Tutorial) -> None:
    with shared.site() as site, pytest.raises(VerificationError):
        run_test(
            site,
            benchmark=1,
            demo_dataset_url=str(shared.folder / "model_mlp" / "container_config.yaml"),
            demo_dataset_hash="1" * 64,
        )


@pytest.mark.parametrize(
    "paths",
    [
        "data_path: ../..\nlabels_path: labels\n",
        "data_path: /etc\nlabels_path: labels\n",
        "data_path: raw\n",
        "[]\n",
        "data_path: nowhere\nlabels_path: labels\n",
        'data_path: "a\\0b"\nlabels_path: labels\n',
        f"data_path: {'x' * 300}\nlabels_path: labels\n",
    ],
)
def test_a_demo_dataset_with_hostile_or_wrong_paths(shared: Tutorial, tmp_path: Path, paths: str) -> None:
    from medperf_core.site.archive import pack_tree

    (tmp_path / "demo" / "raw").mkdir(parents=True)
    (tmp_path / "demo" / "raw" / "x").write_text("x")
    (tmp_path / "demo" / "paths.yaml").write_text(paths)
    pack_tree(tmp_path / "demo", tmp_path / "demo.tar.gz")
    with shared.site() as site, pytest.raises(InvalidEntityError, match=r"paths\.yaml"):
        run_test(site, benchmark=1, demo_dataset_url=str(tmp_path / "demo.tar.gz"))


def test_b12_a_failing_task_says_its_code_and_last_lines(shared: Tutorial) -> None:
    broken = edit(shared.folder / "model_mlp", lambda text: "import sys\nsys.exit('the weights are missing')\n")
    with shared.site(options=ALLOWED) as site:
        with pytest.raises(ExecutionError) as caught:
            run_test(site, benchmark=1, model=str(broken))
        text = str(caught.value)
        assert "exit code 1" in text and "the weights are missing" in text and "infer" in text
        log = Path(text.partition("output is in ")[2].rstrip("."))
        assert "the weights are missing" in log.read_text()
        assert not list(site.temp.glob("step-*"))


def test_a_task_that_writes_nothing_is_a_failure(shared: Tutorial) -> None:
    silent = edit(shared.folder / "metrics", lambda text: "")
    with shared.site(options=ALLOWED) as site, pytest.raises(ExecutionError, match="wrote nothing"):
        run_test(site, benchmark=1, evaluator=str(silent))


def test_a_task_past_its_time_limit_is_stopped(shared: Tutorial) -> None:
    slow = edit(shared.folder / "model_mlp", lambda text: "import time\ntime.sleep(60)\n")
    options = SiteOptions(allow=("no-isolation",), time_limits={"infer": 0.5})
    with shared.site(options=options) as site, pytest.raises(TimeLimitError, match=r"0\.5 s"):
        run_test(site, benchmark=1, model=str(slow))


@pytest.mark.parametrize("text", ["x: [", "just words", "", "a: .nan\n", "- 1\n", "? {a: 1}\n: 2\n"])
def test_results_that_are_no_map_of_json_values_are_refused(shared: Tutorial, text: str) -> None:
    writer = f"""
import sys
path = next(word.partition("=")[2] for word in sys.argv if word.startswith("--output_path="))
open(path, "w").write({text!r} or " ")
"""
    strange = edit(shared.folder / "metrics", lambda _: writer)
    with shared.site(options=ALLOWED) as site, pytest.raises(ExecutionError, match="results"):
        run_test(site, benchmark=1, evaluator=str(strange))


@pytest.mark.parametrize("escape", [
    "os.symlink('/etc/passwd', out + '/predictions.csv')", "os.mkfifo(out + '/pipe')",
    "open(out + '/x', 'w').close(); os.chmod(out + '/x', 0o4755)",
])  # fmt: skip
def test_an_output_that_is_no_plain_file_is_refused(shared: Tutorial, escape: str) -> None:
    code = f"""
import os, sys
out = next(word.partition("=")[2] for word in sys.argv if word.startswith("--output_path="))
{escape}
"""
    hostile = edit(shared.folder / "model_mlp", lambda _: code)
    with shared.site(options=ALLOWED) as site, pytest.raises(ExecutionError, match=r"not acceptable|setuid"):
        run_test(site, benchmark=1, model=str(hostile))


def test_a_policy_plugin_can_forbid_a_run(shared: Tutorial) -> None:
    class Guard:
        @hookimpl
        def medperf_policy(self, action: Action, subject: PolicySubject) -> Decision:
            return Decision("infer" not in subject.what, "no models on Sundays")

    with shared.site() as site:
        site.plugins.add(Guard(), "guard")
        with pytest.raises(DeniedError, match="no models on Sundays"):
            run_test(site, benchmark=1, model=str(shared.model), fresh=True)


def test_a_profile_s_own_policy_needs_no_plugin(shared: Tutorial) -> None:
    from medperf_core.site.profiles import PolicyRules

    with shared.site() as site:
        site.profiles.create("strict", like="tutorial-model-owner", policy=PolicyRules(benchmarks=(7,)))
        site.profiles.create("guarded", like="tutorial-model-owner", required_plugins=("no-such-guard",))
        site.credentials.put(f"strict {site.profile.server}", {"username": "modelowner"})
        site.credentials.put(f"guarded {site.profile.server}", {"username": "modelowner"})
    for profile, words in (("strict", "benchmark 1 is not listed"), ("guarded", "no-such-guard")):
        with shared.site(profile) as site, pytest.raises(DeniedError, match=words):
            run_test(site, benchmark=1, model=str(shared.model), fresh=True)


def test_offline_works_from_what_is_here(shared: Tutorial) -> None:
    with shared.site(options=SiteOptions(offline=True)) as site:
        assert run_test(site, benchmark=1, model=str(shared.model)).results["cases"] == 30


def test_a_container_configuration_runs_like_its_mlcube(shared: Tutorial) -> None:
    with shared.site() as site:
        configured = run_test(site, benchmark=1, model=str(shared.folder / "model_mlp" / "container_config.yaml"))
        assert configured.results == run_test(site, benchmark=1, model=str(shared.model)).results


def test_a_reused_step_needs_the_same_permissions_as_a_run(shared: Tutorial) -> None:
    """What ran with a waiver is not handed out without it, nor past a policy."""
    changed = edit(shared.folder / "model_mlp", lambda text: text + "\n# needs a waiver\n")
    with shared.site(options=ALLOWED) as site:
        run_test(site, benchmark=1, model=str(changed))
    with shared.site() as site, pytest.raises(IsolationError):
        run_test(site, benchmark=1, model=str(changed))


@pytest.mark.parametrize(("rules", "words"), [
    ({"owners": ("user 3",)}, "owner local"), ({"owners": ()}, "owner"), ({"benchmarks": ()}, "benchmark none"),
    ({"images": ()}, "image"),
])  # fmt: skip
def test_a_policy_that_lists_nothing_allows_nothing(
    shared: Tutorial, tmp_path: Path, rules: dict[str, tuple[str, ...]], words: str
) -> None:
    from medperf_core.site.profiles import PolicyRules

    containers = {name: str(path / "mlcube") for name, path in wdbc.containers().items()}
    hospital = wdbc.hospital("hospital_b")
    with Site.open(tmp_path / "home") as site:
        site.profiles.create("closed", platform="process", allow=("no-isolation",), policy=PolicyRules(**rules))
    with Site.open(tmp_path / "home", profile="closed") as site, pytest.raises(DeniedError, match=words):
        run_test(
            site, data_preparator=containers["data_preparator"], model=containers["model_logreg"],
            evaluator=containers["metrics"], data_path=hospital.data_path, labels_path=hospital.labels_path,
        )  # fmt: skip


def test_a_container_of_another_role_is_refused_before_anything_runs(shared: Tutorial) -> None:
    events: list[Event] = []
    with shared.site(on_event=events.append) as site, pytest.raises(InvalidEntityError, match="no task infer"):
        run_test(site, benchmark=1, model="3", fresh=True)
    assert not any(isinstance(event, StepFinished) for event in events)


def test_gpus_that_are_not_there_are_refused_before_a_task_starts(shared: Tutorial) -> None:
    from medperf_core.plugin import Capabilities

    with shared.site(options=SiteOptions(gpus="2")) as site:
        site.__dict__["capabilities"] = Capabilities(site.capabilities.engine, frozenset(), gpus=False)
        with pytest.raises(ExecutionError, match="no GPUs"):
            run_test(site, benchmark=1, model=str(shared.model))

"""One test on two platforms: both do the same, or the model's owner hears in what they differ."""

from __future__ import annotations

import re

import pytest

from medperf_core import Site, SiteOptions
from medperf_core.errors import CheckFailedError, IsolationError, MedperfError, NotFoundError, PluginError, UsageError
from medperf_core.journeys.platforms import require_same, run_test_on
from medperf_core.plugin.events import Event, StepStarted
from tests.engines import require

from .conftest import Tutorial, variant

ALLOWED = SiteOptions(allow=("no-isolation",))
BOTH = ("docker", "process")
IN_DOCKER = "any('/mlcube_io' in word for word in __import__('sys').argv)"
"""Only a container engine puts a task's volumes there."""


def test_two_platforms_come_to_the_same(docker: Tutorial) -> None:
    with docker.site(options=ALLOWED) as site:
        before = site.effective.platform
        found = run_test_on(site, BOTH, benchmark=1, model=str(docker.model))
        assert list(found.reports) == ["docker", "process"]
        assert not found.failures and not found.differences
        require_same(found)
        assert [report.platform for report in found.reports.values()] == ["docker", "process"]
        assert found.reports["docker"].steps[-1].engine.startswith("docker ")
        assert found.reports["process"].steps[-1].waivers == ["no-isolation"]
        assert {report.uid for report in found.reports.values()} <= {each.uid for each in site.records.list().reports}
        assert site.effective.platform == before


def test_docker_and_singularity_come_to_the_same(docker: Tutorial) -> None:
    require("apptainer")
    with docker.site() as site:
        found = run_test_on(site, ("docker", "singularity"), benchmark=1, model=str(docker.model))
        require_same(found)
        assert [report.steps[-1].engine.partition(" ")[0] for report in found.reports.values()] == [
            "docker",
            "apptainer",
        ]
        assert not any(step.waivers for report in found.reports.values() for step in report.steps)


def test_other_results_on_the_other_platform(docker: Tutorial) -> None:
    model = variant(docker, "model_mlp", swap=("predict(values)", f"predict(values) if {IN_DOCKER} else 0.5"))
    with docker.site(options=ALLOWED) as site:
        found = run_test_on(site, BOTH, benchmark=1, model=str(model / "mlcube"))
        assert len(found.reports) == 2 and not found.failures
        [auc] = [line for line in found.differences if line.startswith("results: auc.value: ")]
        assert "on docker, 0.5 on process (tolerance 1e-06)" in auc
        with pytest.raises(CheckFailedError, match=r"docker, process do not come to the same"):
            require_same(found)


def test_a_model_that_only_one_platform_can_run(docker: Tutorial) -> None:
    model = variant(docker, "model_mlp", f"assert {IN_DOCKER}, 'no engine file here'")
    with docker.site(options=ALLOWED) as site:
        found = run_test_on(site, BOTH, benchmark=1, model=str(model / "mlcube"))
        assert list(found.reports) == ["docker"]
        assert "no engine file here" in found.failures["process"]
        with pytest.raises(CheckFailedError, match=r"passed on docker, but not on process: .*infer") as failed:
            require_same(found)
        assert "other engines" in str(failed.value)


def test_a_model_that_no_platform_can_run(docker: Tutorial) -> None:
    model = variant(docker, "model_mlp", "raise SystemExit('never')")
    with docker.site(options=ALLOWED) as site, pytest.raises(MedperfError, match="never"):
        run_test_on(site, BOTH, benchmark=1, model=str(model / "mlcube"))


def test_each_platform_s_own_reason_is_told(docker: Tutorial) -> None:
    model = variant(docker, "model_mlp", f"raise SystemExit('no hand' if {IN_DOCKER} else 'no foot')")
    with docker.site(options=ALLOWED) as site, pytest.raises(CheckFailedError) as failed:
        run_test_on(site, BOTH, benchmark=1, model=str(model / "mlcube"))
    assert re.search(
        r"failed on docker, process:\n +- On docker: .*no hand.*\n +- On process: .*no foot", str(failed.value), re.S
    )


def test_one_reason_is_told_once(docker: Tutorial) -> None:
    with docker.site(options=ALLOWED) as site, pytest.raises(NotFoundError, match="nowhere"):
        run_test_on(site, BOTH, benchmark=1, model="./nowhere")


@pytest.mark.parametrize("names", [(), ("docker",), ("docker", "docker")])
def test_what_is_no_comparison(shared: Tutorial, names: tuple[str, ...]) -> None:
    with shared.site() as site, pytest.raises(UsageError, match="cannot be compared"):
        run_test_on(site, names, benchmark=1)


def test_two_names_of_one_platform_are_no_comparison(shared: Tutorial) -> None:
    pytest.importorskip("medperf_singularity")
    offline = SiteOptions(offline=True)
    with shared.site(options=offline) as site, pytest.raises(UsageError, match="singularity, apptainer cannot be"):
        run_test_on(site, ("singularity", "apptainer"), benchmark=1)


def test_a_platform_that_keeps_nothing_closed_stops_it_before_anything_runs(docker: Tutorial) -> None:
    told: list[Event] = []
    with docker.site(on_event=told.append) as site, pytest.raises(IsolationError, match="no-isolation"):
        run_test_on(site, BOTH, benchmark=1, model=str(docker.model))
    assert not any(isinstance(event, StepStarted) for event in told)


def test_an_unknown_platform_stops_it_before_anything_runs(shared: Tutorial) -> None:
    with shared.site() as site:
        before = len(site.records.list().reports)
        with pytest.raises(PluginError, match="rocket"):
            run_test_on(site, ("process", "rocket"), benchmark=1, fresh=True)
        assert len(site.records.list().reports) == before


def test_the_other_platform_is_cancelled_with_its_site(shared: Tutorial) -> None:
    with shared.site() as site, site.on_platform("process") as other:
        assert isinstance(other, Site)
        site.cancel.cancel()
        assert other.cancel.cancelled

"""A container author's loop: start from the benchmark's reference model, run one task, test."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medperf_core import SiteOptions
from medperf_core.errors import UsageError
from medperf_core.journeys.compatibility import run_test
from medperf_core.journeys.create import create_model
from medperf_core.journeys.package import package
from medperf_core.journeys.run_task import run_container_task
from medperf_core.plugin.digest import source_digest

from .conftest import Tutorial


def test_a_created_model_passes_the_test_as_created(shared: Tutorial, tmp_path: Path) -> None:
    with shared.site() as site:
        made = create_model(site, benchmark=1, output=tmp_path / "mine", name="my new model")
        manifest = yaml.safe_load((made / "mlcube" / "mlcube.yaml").read_text())
        assert manifest["name"] == "my new model"
        assert manifest["docker"]["image"] != "localhost/medperf-examples/wdbc-model-logreg:1.0.0"
        assert source_digest(made / "project") == source_digest(shared.folder / "model_logreg" / "project")
        assert run_test(site, benchmark=1, model=str(made / "mlcube")).results["cases"] == 30
        assert package(site, made).files
        with pytest.raises(UsageError, match="exists already"):
            create_model(site, benchmark=1, output=made, name="again")


def test_one_task_of_a_local_container(shared: Tutorial, tmp_path: Path) -> None:
    with shared.site() as site:
        report = run_test(site, benchmark=1, model=str(shared.model))
        assert report
        prepared = next(iter(site.home.cache_dir.glob("steps/*/outputs/output_labels_path"))).parent / "output_path"
        commands: list[tuple[str, ...]] = []
        outcome = run_container_task(
            site, str(shared.model), "infer", {"data_path": prepared}, tmp_path / "out", show_command=commands.append
        )
        assert outcome.exit_code == 0
        assert commands[0][0] == "python3" and f"--data_path={prepared}" in commands[0]
        assert (tmp_path / "out" / "output_path" / "predictions.csv").is_file()
        with pytest.raises(UsageError, match="not empty"):
            run_container_task(site, str(shared.model), "infer", {"data_path": prepared}, tmp_path / "out")
        with pytest.raises(UsageError, match="no input 'labels'"):
            run_container_task(site, str(shared.model), "infer", {"labels": prepared}, tmp_path / "other")


def test_offline_template(shared: Tutorial, tmp_path: Path) -> None:
    with shared.site(options=SiteOptions(offline=True)) as site:
        assert create_model(site, benchmark=1, output=tmp_path / "mine", name="x").is_dir()

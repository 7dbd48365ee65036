"""What ``test run --strict`` finds: containers that work here and are broken for other sites, each in its own way."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import attrs
import pytest
import yaml

from medperf_core import SiteOptions
from medperf_core.entities import Benchmark, Finding, FindingStatus, State, TestReport
from medperf_core.errors import CheckFailedError, InvalidEntityError
from medperf_core.journeys import strict
from medperf_core.journeys.compatibility import run_test
from medperf_core.journeys.containers import resolve
from medperf_core.journeys.strict import require_passed
from medperf_core.plugin import Condition
from medperf_core.plugin.runner import TaskRequest

from .conftest import Tutorial, variant

ALLOWED = SiteOptions(allow=("no-isolation",))
CHECKS = ["labels", "architecture", "size", "user", "tmp", "working-dir", "gpu", "twice"]


def by_check(report: TestReport) -> dict[str, Finding]:
    assert [finding.check for finding in report.findings] == CHECKS
    return {finding.check: finding for finding in report.findings}


def failed(report: TestReport) -> list[str]:
    return [finding.check for finding in report.findings if finding.status is FindingStatus.FAILED]


# --- on Docker: all that can be checked ---------------------------------------------------------------------------


def test_clean_containers_pass_every_check(docker: Tutorial) -> None:
    with docker.site() as site:
        report = run_test(site, benchmark=1, strict=True)
        assert {finding.status for finding in report.findings} == {FindingStatus.PASSED}
        found = by_check(report)
        for task in ("prepare", "sanity_check", "statistics", "infer", "evaluate"):
            for check in ("user", "tmp", "working-dir"):
                assert f"{task} of wdbc-" in found[check].found
        assert "amd64" in found["architecture"].found
        assert all(int(size) > 1 << 20 for size in re.findall(r": (\d+) bytes", found["size"].found))
        require_passed(report)
        assert site.records.get(report.uid) == report
        assert not list(site.temp.glob("strict-*"))


def test_only_what_is_named_is_run_again(docker: Tutorial) -> None:
    with docker.site() as site:
        found = by_check(run_test(site, benchmark=1, model=str(docker.model), strict=True))
        assert found["user"].found.splitlines()[1:] == ["infer of WDBC neural network"]


def test_a_model_that_writes_to_its_user_s_home(docker: Tutorial) -> None:
    model = variant(
        docker,
        "model_mlp",
        "import os, pathlib, pwd\n"
        "try: pathlib.Path(pwd.getpwuid(os.getuid()).pw_dir, 'checkpoint').write_text('x')\n"
        "except KeyError: raise SystemExit(f'nobody is {os.getuid()}:{os.getgid()}')\n",
    )
    (model / "project" / "passwd.py").write_text("nobody:x:65534:65534::/tmp:/bin/false\n")
    with (model / "project" / "Dockerfile").open("a") as file:
        file.write("COPY passwd.py /etc/passwd\n")
    with docker.site() as site:
        report = run_test(site, benchmark=1, model=str(model / "mlcube"), strict=True)
        other = run_test(site, benchmark=1, model=str(model / "mlcube"), strict=True)
    assert failed(report) == ["user"]
    finding = by_check(report)["user"]
    user = re.search(r"Run as user (\d+:\d+)", finding.found)
    assert user and f"nobody is {user[1]}" in finding.found
    assert "exit code 1" in finding.found and ".log" in finding.found
    assert "user's name or home" in finding.advice
    assert by_check(other)["user"].found != finding.found  # another user each time
    with pytest.raises(CheckFailedError, match=r"1 of 8 strict checks failed: user\. .*medperf test view"):
        require_passed(report)


def test_a_model_that_fills_tmp(docker: Tutorial) -> None:
    model = variant(docker, "model_mlp", "open('/tmp/cache', 'wb').write(bytes(50 << 20))\n")
    with docker.site() as site:
        report = run_test(site, benchmark=1, model=str(model / "mlcube"), strict=True)
    assert failed(report) == ["tmp"]
    assert "No space left on device" in by_check(report)["tmp"].found


def test_a_model_that_reads_beside_its_working_directory(docker: Tutorial) -> None:
    model = variant(docker, "model_mlp", "open('cases.py').read()\n")
    with (model / "project" / "Dockerfile").open("a") as file:
        file.write("WORKDIR /project\n")
    with docker.site() as site:
        report = run_test(site, benchmark=1, model=str(model / "mlcube"), strict=True)
    assert failed(report) == ["working-dir"]
    assert "No such file or directory: 'cases.py'" in by_check(report)["working-dir"].found


def test_a_model_that_hides_its_failure_is_told_by_its_empty_output(docker: Tutorial) -> None:
    model = variant(
        docker, "model_mlp", "import os, sys\nif os.getuid() != 65534: print('cannot write'); sys.exit(0)\n"
    )
    with docker.site() as site:
        report = run_test(site, benchmark=1, model=str(model / "mlcube"), strict=True)
    assert failed(report) == ["user"]
    assert "left its output output_path empty" in by_check(report)["user"].found


def test_only_root_can_check_another_user(docker: Tutorial, monkeypatch: pytest.MonkeyPatch) -> None:
    with docker.site() as site:
        assert site.runner.capabilities().conditions == set(Condition)
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        assert site.runner.capabilities().conditions == set(Condition) - {Condition.USER}


def test_an_image_for_other_machines_and_a_large_one(
    docker: Tutorial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with docker.site() as site:
        image = resolve(site, str(docker.model)).image.reference
        subprocess.run(["docker", "save", "-o", str(tmp_path / "amd64.tar"), image], check=True)
        say_architecture(tmp_path / "amd64.tar", tmp_path / "image.tar", "arm64")
        shutil.copytree(docker.model / "workspace", tmp_path / "workspace")
        (tmp_path / "workspace" / ".image").mkdir()
        (tmp_path / "image.tar").rename(tmp_path / "workspace" / ".image" / "image.tar")
        manifest = yaml.safe_load((docker.model / "mlcube.yaml").read_text())
        manifest["docker"] = {"tar_file": "image.tar"}
        (tmp_path / "mlcube.yaml").write_text(yaml.safe_dump(manifest))
        monkeypatch.setattr(strict, "SIZE_BYTES", 1 << 20)
        report = run_test(site, benchmark=1, model=str(tmp_path), strict=True)
    assert failed(report) == ["architecture"]
    found = by_check(report)
    assert "arm64" in found["architecture"].found and "linux/amd64" in found["architecture"].advice
    assert found["size"].status is FindingStatus.PASSED and "smaller base image" in found["size"].advice


def say_architecture(source: Path, target: Path, architecture: str) -> None:
    """The same saved image with another word in its configuration."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        members = {item.name: old.extractfile(item) for item in old if item.isfile()}
        content = {name: file.read() for name, file in members.items() if file}
    [entry] = json.loads(content["manifest.json"])
    config = json.dumps({**json.loads(content[entry["Config"]]), "architecture": architecture}).encode()
    entry = {**entry, "Config": f"{hashlib.sha256(config).hexdigest()}.json", "RepoTags": None}
    kept = {layer: content[layer] for layer in entry["Layers"]}
    with tarfile.open(target, "w") as new:
        for name, data in {**kept, entry["Config"]: config, "manifest.json": json.dumps([entry]).encode()}.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            new.addfile(item, io.BytesIO(data))


# --- anywhere -----------------------------------------------------------------------------------------------------


def test_the_process_runner_says_what_it_cannot_check(shared: Tutorial) -> None:
    with shared.site() as site:
        report = run_test(site, benchmark=1, strict=True)
    found = by_check(report)
    unchecked = {name for name, finding in found.items() if finding.status is FindingStatus.NOT_CHECKED}
    assert unchecked == {"architecture", "size", "user", "tmp", "working-dir", "gpu"}
    assert all(found[name].advice for name in unchecked)
    assert not failed(report)
    require_passed(report)


def test_a_model_that_needs_a_gpu(shared: Tutorial) -> None:
    model = variant(
        shared, "model_mlp", "import os, sys\nif not os.environ.get('CUDA_VISIBLE_DEVICES'): sys.exit('no CUDA')\n"
    )
    options = attrs.evolve(ALLOWED, gpus="device=0")
    with shared.site(options=options) as site:
        report = run_test(site, benchmark=1, model=str(model / "mlcube"), strict=True)
        assert failed(report) == ["gpu"]
        assert "no CUDA" in by_check(report)["gpu"].found
        assert "CPU" in by_check(report)["gpu"].advice
        clean = run_test(site, benchmark=1, model=str(shared.model), strict=True)
        assert by_check(clean)["gpu"].status is FindingStatus.NOT_CHECKED


RANDOM = ("predict(values)", "predict(values) * (1 - {} * __import__('random').random())")


def noisy(tutorial: Tutorial, amount: str) -> Path:
    return variant(tutorial, "model_mlp", swap=(RANDOM[0], RANDOM[1].format(amount))) / "mlcube"


def test_a_model_with_random_output(shared: Tutorial) -> None:
    with shared.site(options=ALLOWED) as site:
        report = run_test(site, benchmark=1, model=str(noisy(shared, "0.9")), strict=True)
        assert failed(report) == ["twice"]
        finding = by_check(report)["twice"]
        line = r"infer of WDBC neural network: brier_score\.value: 0\.\d+ in the first run, 0\.\d+ in the second run "
        assert re.search(line + r"\(tolerance 1e-06\)", finding.found)
        assert "seeds" in finding.advice
        # the second run replaced nothing: the next test takes up the first one's outputs
        again = run_test(site, benchmark=1, model=str(noisy(shared, "0.9")))
        assert all(step.reused for step in again.steps) and again.results == report.results
        assert again.uid != report.uid and site.records.get(report.uid).findings == report.findings


def grant(tutorial: Tutorial, tolerance: object) -> int:
    """The UID of a benchmark like the tutorial's that grants a tolerance."""
    with tutorial.committee() as site:
        like = site.server.get(Benchmark, 1)
        made = site.gate.create(
            attrs.evolve(
                like,
                id=None,
                owner=None,
                name="tolerant",
                state=State.DEVELOPMENT,
                metadata={"tolerance": tolerance},
            )
        )
        assert isinstance(made, Benchmark)
        return made.uid


def test_predictions_may_differ_where_the_benchmark_tolerates_the_results(tutorial: Tutorial) -> None:
    benchmark = grant(tutorial, {"default": 0.05})
    with tutorial.site(options=ALLOWED) as site:
        report = run_test(site, benchmark=benchmark, model=str(noisy(tutorial, "0.001")), strict=True)
        assert not failed(report)
        assert "the predictions differ, their results within tolerance" in by_check(report)["twice"].found
        clean = run_test(site, benchmark=benchmark, model=str(tutorial.model), strict=True)
        assert "the predictions are byte for byte the same" in by_check(clean)["twice"].found


def test_a_tolerance_that_cannot_be_read_stops_a_strict_test_only(tutorial: Tutorial) -> None:
    benchmark = grant(tutorial, {"default": "much"})
    with tutorial.site(options=ALLOWED) as site:
        assert run_test(site, benchmark=benchmark).results
        with pytest.raises(InvalidEntityError, match=f"tolerance in the metadata of benchmark {benchmark} "):
            run_test(site, benchmark=benchmark, strict=True)


UNCHECKED = "import sys\nif sys.argv[1] == 'sanity_check': sys.exit(0)\n"
"""Beginning of a data preparator that finds nothing wrong with what it made."""


def test_an_evaluator_and_a_preparator_that_are_not_repeatable(shared: Tutorial) -> None:
    preparator = variant(
        shared,
        "data_preparator",
        UNCHECKED + "import uuid\n",
        swap=(
            "given.output_labels_path)\n        elif",
            "given.output_labels_path)\n            (given.output_path / 'made.txt').write_text(str(uuid.uuid4()))\n"
            "        elif",
        ),
    )
    evaluator = variant(shared, "metrics", swap=('settings["seed"]\n', '__import__("random").randrange(1 << 30)\n'))
    with shared.site(options=ALLOWED) as site:
        report = run_test(site, benchmark=1, data_preparator=str(preparator / "mlcube"), strict=True)
        judged = run_test(site, benchmark=1, evaluator=str(evaluator / "mlcube"), strict=True)
    assert failed(report) == failed(judged) == ["twice"]
    assert "prepare of WDBC data preparator: output_path/made.txt" in by_check(report)["twice"].found
    found = by_check(judged)["twice"].found
    assert re.search(r"evaluate of .*: \w+\.ci95\[[01]\]: ", found) and "auc.value" not in found


def test_a_preparator_that_copies_labels_into_the_data(shared: Tutorial) -> None:
    preparator = variant(
        shared,
        "data_preparator",
        UNCHECKED + "import shutil\n",
        swap=(
            "given.output_labels_path)\n        elif",
            "given.output_labels_path)\n"
            "            shutil.copy(given.labels_path / 'outcomes.json', given.output_path / 'raw.txt')\n"
            "            shutil.copy(given.output_labels_path / 'labels.csv', given.output_path / 'other name.txt')\n"
            "            (given.output_path / 'empty').touch()\n"
            "            (given.output_labels_path / 'empty').touch()\n"
            "        elif",
        ),
    )
    with shared.site(options=ALLOWED) as site:
        report = run_test(site, benchmark=1, data_preparator=str(preparator / "mlcube"), strict=True)
    assert failed(report) == ["labels"]
    finding = by_check(report)["labels"]
    assert finding.found.splitlines()[1:] == [
        "other name.txt is labels.csv of the prepared labels",
        "raw.txt is outcomes.json of the raw labels",
    ]
    assert "output_labels_path" in finding.advice


@pytest.mark.parametrize("user", ["0:0", "0:1000", "1000:0", "1000", "root:root", "-1:5", "1:1 --privileged"])
def test_no_task_is_asked_to_run_as_root(shared: Tutorial, user: str) -> None:
    with shared.site() as site:
        task = resolve(site, str(shared.model)).spec.task("infer")
    with pytest.raises(InvalidEntityError, match="not root"):
        TaskRequest(task, (), Path("log"), user=user)

"""The model owner's commands on a real embedded server, with a real terminal or a process where one is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from medperf_core.errors import VerificationError

from .tutorial import SCRIPT, Tutorial

SUBMIT = ("mlcube", "submit", "--name", "my-modelref-cube")


def test_the_journey_as_it_is_written(tutorial: Tutorial) -> None:
    assert "wdbc" in tutorial.run("benchmark", "ls").stdout
    tested = tutorial.run("test", "run", "--benchmark", "1", "--model", "medperf_tutorial/MODEL/mlcube/mlcube.yaml")
    assert "auc.value" in tested.stdout
    assert "No isolation" in tested.stderr and "Its report is" in tested.stderr
    submitted = tutorial.run(*SUBMIT, *tutorial.hosted, input="y\n")
    assert "OPERATION is final" in submitted.stderr
    assert "Next: medperf mlcube associate --benchmark BENCHMARK --model_uid 4" in submitted.stderr
    [mine] = tutorial.json("mlcube", "ls", "--mine")
    assert mine["id"] == 4
    at = mine["created_at"]
    assert f"{at[:10]} {at[11:19]}Z" in tutorial.run("mlcube", "ls", "--mine").stdout.splitlines()[2]
    assert f"{at[:10]} {at[11:19]}Z" in tutorial.run("mlcube", "view", "4").stdout
    asked = tutorial.terminal("mlcube", "associate", "--benchmark", "1", "--model_uid", "4")
    asked.wait_for("server.db? [y/N] ")
    assert '"test_result"' in asked.seen and '"auc"' in asked.seen
    asked.type("y\n")
    assert asked.end() == 0
    assert "PENDING" in tutorial.run("association", "ls").stdout
    tutorial.run("profile", "activate", "tutorial-committee")
    tutorial.run("association", "approve", "--benchmark", "1", "--mlcube", "4", "--yes")
    [row] = tutorial.run("association", "ls", "approved").stdout.splitlines()[2:]
    assert row.split()[:5] == ["1", "model", "2", "4", "my-modelref-cube"]
    assert tutorial.json("association", "ls", "PENDING") == []
    [found] = tutorial.json("association", "ls")
    assert (found["model"], found["mlcube"], found["model_name"]) == (2, 4, "my-modelref-cube")
    tutorial.run("profile", "activate", "tutorial-admin")
    assert tutorial.json("association", "ls") == [found]
    audit = tutorial.json("site", "audit")
    shown = tutorial.run("site", "audit").stdout.splitlines()
    assert re.split(" {2,}", shown[0]) == ["No.", "Time", "Event", "What", "Approved by"]
    assert re.search(r"\d\dZ +sending +create model: model my-modelref-cube +person$", "\n".join(shown), re.MULTILINE)
    assert [entry["approved_by"] for entry in audit if entry["event"] == "sending"][-3:] == [
        "person",
        "person",
        "--yes",
    ]


@pytest.mark.parametrize("answer", ["\n", "n\n", ""])
def test_without_a_yes_nothing_is_sent(tutorial: Tutorial, answer: str) -> None:
    done = tutorial.run(*SUBMIT, *tutorial.hosted, input=answer, code=15)
    assert "Nothing was sent" in done.stderr
    assert ("--yes" in done.stderr) or answer
    assert tutorial.json("mlcube", "ls", "--mine") == []


@pytest.mark.parametrize(("typed", "code"), [("\x03", 130), ("\x04", 130), ("\n", 15)])
def test_leaving_a_question_sends_nothing(tutorial: Tutorial, typed: str, code: int) -> None:
    asked = tutorial.terminal(*SUBMIT, *tutorial.hosted)
    asked.wait_for("[y/N] ")
    asked.type(typed)
    assert asked.end() == code
    assert "Traceback" not in asked.seen
    assert "othing was sent" in asked.seen or "nothing was done" in asked.seen
    assert tutorial.json("mlcube", "ls", "--mine") == []


def test_what_is_shown_is_what_is_sent(tutorial: Tutorial) -> None:
    done = tutorial.run("--quiet", *SUBMIT, *tutorial.hosted, "-y")
    start = done.stderr.index("\n{") + 1
    end = done.stderr.index("\n}", start) + 2
    shown = json.loads(done.stderr[start:end])
    model = tutorial.json("model", "view", "2")
    for key in ("name", "state", "metadata"):
        assert shown[key] == model[key]
    assert shown["container"]["container_config"] == model["container"]["container_config"]


def test_a_tampered_audit_log_is_told_and_stops_what_would_be_sent(tutorial: Tutorial) -> None:
    tutorial.run(*SUBMIT, *tutorial.hosted, "--yes")
    log = tutorial.folder / "home" / "audit" / "log.jsonl"
    whole = log.read_text()
    lines = whole.splitlines(keepends=True)
    assert len(lines) >= 2
    for changed in (whole.replace("sending", "Sending", 1), "".join(lines[1:]), "".join(lines[:-1])):
        log.write_text(changed)
        done = tutorial.run("site", "audit", code=VerificationError.exit_code)
        assert "audit log" in done.stderr and done.stdout == ""
        words = ("mlcube", "associate", "--benchmark", "1", "--model_uid", "4", "--yes")
        assert "audit log" in tutorial.run(*words, code=VerificationError.exit_code).stderr
        assert tutorial.json("association", "ls") == []
    log.write_text(whole)
    assert "The log is whole" in tutorial.run("site", "audit").stderr


def test_development_is_not_called_final(tutorial: Tutorial) -> None:
    done = tutorial.run(*SUBMIT, *tutorial.hosted, "-y", "--development")
    assert "DEVELOPMENT; it can still be edited" in done.stderr
    assert "OPERATION" not in done.stderr


@pytest.mark.parametrize("noun", ["benchmark", "mlcube", "container", "model"])
def test_every_view_in_every_format(tutorial: Tutorial, noun: str) -> None:
    as_json = tutorial.json(noun, "view", "1")
    as_yaml = yaml.safe_load(tutorial.run(noun, "view", "1", "--format", "yaml").stdout)
    assert as_json == as_yaml and as_yaml["id"] == 1
    assert as_yaml["name"] in tutorial.run(noun, "view", "1").stdout
    listed = tutorial.json(noun, "ls")
    assert as_json in listed


def test_what_is_not_there_is_told(tutorial: Tutorial) -> None:
    assert "99" in tutorial.run("mlcube", "view", "99", code=5).stderr
    assert tutorial.run("dataset", "ls").stdout == ""
    tutorial.run("auth", "logout")
    assert "auth login" in tutorial.run("auth", "status").stderr
    tutorial.run("mlcube", "ls", code=10)
    nobody = tutorial.run("auth", "login", code=2).stderr
    assert "2. modelowner" in nobody and "Write: medperf auth login --user NAME" in nobody
    tutorial.run("auth", "login", "-u", "modelowner")
    status = tutorial.json("auth", "status")
    assert status["user"]["username"] == "modelowner"


def test_reports_are_kept_and_reused_steps_are_named(tutorial: Tutorial) -> None:
    words = ("test", "run", "-b", "1", "-m", "medperf_tutorial/MODEL/mlcube")
    first = tutorial.json(*words)
    again = tutorial.run(*words)
    assert "Reused from an earlier run with unchanged inputs: prepare" in again.stderr
    assert "Reused" not in tutorial.run(*words, "--no-cache").stderr
    reports = tutorial.json("test", "ls")
    assert first["uid"] in [report["uid"] for report in reports]
    assert "auc" in tutorial.run("test", "view", first["uid"]).stdout


def test_after_a_test_only_ones_own_model_is_associated(tutorial: Tutorial) -> None:
    def advice(*words: str) -> str:
        said = tutorial.run("test", "run", "--benchmark", "1", *words).stderr
        report = said.partition("Its report is ")[2].partition(".")[0]
        return said.rpartition("Next: ")[2].strip().replace(report, "REPORT")

    assert advice() == advice("--model", "2") == "medperf test view REPORT"
    assert advice("--model", "medperf_tutorial/MODEL/mlcube/mlcube.yaml") == (
        "medperf mlcube package medperf_tutorial/MODEL/mlcube"
    )
    tutorial.run("profile", "activate", "tutorial-committee")
    assert advice("--model", "2") == "medperf mlcube associate --benchmark 1 --model_uid 2"
    assert advice() == "medperf test view REPORT"


def test_a_registry_that_is_gone_is_not_made_anew(tutorial: Tutorial) -> None:
    database = tutorial.folder / "medperf_tutorial" / "server.db"
    database.unlink()
    for words in (("benchmark", "ls"), ("association", "ls"), ("auth", "status")):
        assert f"There is no registry at {database}" in tutorial.run(*words, code=3).stderr
    assert not database.exists()
    tutorial.run("auth", "login", "--user", "admin")
    assert tutorial.json("benchmark", "ls") == []


def test_a_fully_local_test_works_offline_and_without_a_server(tutorial: Tutorial) -> None:
    shutil.unpack_archive(tutorial.folder / "medperf_tutorial" / "demo_dataset.tar.gz", tutorial.folder)
    (tutorial.folder / "medperf_tutorial" / "server.db").unlink()
    place = "medperf_tutorial"
    done = tutorial.run(
        "test",
        "run",
        "--data_preparation",
        f"{place}/data_preparator/mlcube",
        "--model",
        f"{place}/model_mlp/mlcube",
        "--evaluator",
        f"{place}/metrics/mlcube",
        "--data_path",
        "raw",
        "--labels_path",
        "labels",
        "--offline",
    )
    assert "auc.value" in done.stdout


def test_a_template_passes_as_created(tutorial: Tutorial) -> None:
    made = tutorial.run("mlcube", "create", "model", "--benchmark", "1")
    command = made.stderr.rpartition("Next: medperf ")[2].split()
    assert command == ["test", "run", "--benchmark", "1", "--model", "my-model/mlcube"]
    tutorial.run(*command)
    assert "exists already" in tutorial.run("mlcube", "create", "model", "--benchmark", "1", code=2).stderr
    made = tutorial.run("mlcube", "create", "model", "--benchmark", "1", "--output", "my model")
    command = "medperf test run --benchmark 1 --model 'my model/mlcube'"
    assert f"Next: {command}" in made.stderr
    [manifest] = (tutorial.folder / "my model" / "mlcube").glob("*.yaml")
    assert f" {command}\n" in manifest.read_text()


def test_one_task_is_run_with_its_command_shown(tutorial: Tutorial) -> None:
    shutil.unpack_archive(tutorial.folder / "medperf_tutorial" / "demo_dataset.tar.gz", tutorial.folder)
    done = tutorial.run(
        "container",
        "run",
        "--task",
        "prepare",
        "--container",
        "medperf_tutorial/data_preparator/mlcube",
        "--input",
        "data_path=raw",
        "--input",
        "labels_path=labels",
        "--output",
        "prepared",
    )
    [line] = [line for line in done.stderr.splitlines() if line.startswith("$ ")]
    assert " main.py prepare " in line and f"--data_path={tutorial.folder / 'raw'}" in line
    assert sorted(item.name for item in (tutorial.folder / "prepared").iterdir()) == [
        "output_labels_path",
        "output_path",
    ]
    assert (
        "LABEL=PATH"
        in tutorial.run(
            "container", "run", "--task", "x", "--container", "1", "--input", "a", "--output", "b", code=2
        ).stderr
    )


def test_an_isolation_that_is_not_waived_stops_it(tutorial: Tutorial) -> None:
    words = (
        "--profile",
        "default",
        "--platform",
        "process",
        "container",
        "run",
        "--task",
        "infer",
        "--container",
        "medperf_tutorial/MODEL/mlcube",
        "--input",
        "data_path=medperf_tutorial",
        "--output",
        "out",
    )
    assert "--allow no-isolation" in tutorial.run(*words, code=12).stderr
    assert "cases.csv" in tutorial.run(*words, "--allow", "no-isolation", code=13).stderr


def test_b10_control_c_leaves_no_process_and_no_output(tutorial: Tutorial) -> None:
    project = tutorial.folder / "medperf_tutorial" / "model_mlp" / "project"
    (project / "main.py").write_text("import time\nprint('working', flush=True)\ntime.sleep(600)\n")
    asked = tutorial.terminal(
        "container",
        "run",
        "--task",
        "infer",
        "--container",
        "medperf_tutorial/MODEL/mlcube",
        "--input",
        "data_path=medperf_tutorial",
        "--output",
        "out",
        "--allow",
        "no-isolation",
    )
    asked.wait_for("[infer] working")
    asked.type("\x03")
    assert asked.end() == 130
    assert "SIGINT" in asked.seen and "Traceback" not in asked.seen
    assert sorted(item.name for item in tutorial.folder.iterdir()) == ["home", "medperf_tutorial"]
    assert not running_in(str(tutorial.folder))


def running_in(folder: str) -> list[str]:
    """Command lines of the processes that name a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if folder in command:
                found.append(command)
    return found


def test_a_termination_is_as_clean(tutorial: Tutorial) -> None:
    project = tutorial.folder / "medperf_tutorial" / "model_mlp" / "project"
    (project / "main.py").write_text("import time\ntime.sleep(600)\n")
    words = [
        "container",
        "run",
        "--task",
        "infer",
        "--container",
        "medperf_tutorial/MODEL/mlcube",
        "--input",
        "data_path=medperf_tutorial",
        "--output",
        "out",
        "--allow",
        "no-isolation",
    ]
    started = subprocess.Popen(
        [sys.executable, "-m", "medperf_core.cli", *words],
        cwd=tutorial.folder,
        env=tutorial.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any("main.py" in line for line in running_in(str(tutorial.folder))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 143, err
    assert not running_in(str(tutorial.folder))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["medperf_tutorial/MODEL/mlcube"], 0),
        (["--mlcube", "medperf_tutorial/MODEL/mlcube", "--mlcube-types", "model"], 0),
        (["--mlcube", "medperf_tutorial/MODEL/mlcube", "--mlcube-types", "model,metrics"], 6),
        (["--mlcube", "medperf_tutorial/MODEL/mlcube", "--mlcube-types", "robot"], 2),
        (["medperf_tutorial"], 5),
        ([], 2),
    ],
)
def test_the_script_is_the_command(tutorial: Tutorial, words: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, *words],
        cwd=tutorial.folder,
        env=tutorial.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    same = tutorial.run("mlcube", "package", *words, code=code)
    assert same.stdout == done.stdout
    assert ("Next: medperf mlcube submit" in done.stderr) == (code == 0)


def test_all_types_are_checked_before_anything_is_written(tutorial: Tutorial) -> None:
    mlcube = tutorial.folder / "medperf_tutorial" / "MODEL" / "mlcube"
    shutil.rmtree(mlcube / "deploy")
    said = tutorial.run("mlcube", "package", str(mlcube), "--mlcube-types", "model,metrics,data-preparator", code=6)
    assert "The task evaluate is missing" in said.stderr and "The task prepare is missing" in said.stderr
    assert not (mlcube / "deploy").exists()


def test_an_image_file_has_to_be_hosted_too(tutorial: Tutorial) -> None:
    cube = tutorial.folder / "medperf_tutorial" / "model_logreg" / "mlcube"
    manifest = cube / "mlcube.yaml"
    kept = manifest.read_text()
    manifest.write_text(kept.replace("docker:\n", "docker:\n  tar_file: my image.tar\n"))
    (cube / "workspace" / ".image").mkdir()
    (cube / "workspace" / ".image" / "my image.tar").write_bytes(b"an image")
    done = tutorial.run("mlcube", "package", str(cube), "--output", "with-image")
    manifest.write_text(kept)
    assert f"Host the image too, which is not copied: {cube / 'workspace' / '.image' / 'my image.tar'}" in done.stderr
    assert done.stderr.rstrip().endswith("--image-file URL/my%20image.tar")
    assert "In s3: and gs: addresses, write names as they are" in done.stderr


def test_what_a_task_reads_is_asked_for(tutorial: Tutorial) -> None:
    words = ("container", "run", "--container", "medperf_tutorial/MODEL/mlcube", "--task", "infer", "--output", "o")
    done = tutorial.run(*words, code=6)
    assert "data_path: no path was given for it" in done.stderr and "--input LABEL=PATH" in done.stderr


def test_a_package_as_one_archive(tutorial: Tutorial) -> None:
    deploy = tutorial.folder / "medperf_tutorial" / "MODEL" / "mlcube" / "deploy"
    shutil.rmtree(deploy)
    words = ("mlcube", "package", "medperf_tutorial/MODEL/mlcube", "--output", "out/model.tar.gz")
    tutorial.run(*words)
    archive = tutorial.folder / "out" / "model.tar.gz"
    assert not deploy.exists() and list(archive.parent.iterdir()) == [archive]
    first = archive.read_bytes()
    archive.write_text("mine")
    assert "--yes" in tutorial.run(*words, code=15).stderr
    assert "left as it is" in tutorial.run(*words, input="n\n", code=2).stderr
    assert archive.read_text() == "mine"
    tutorial.run(*words, "--yes")
    assert archive.read_bytes() == first
    archive.unlink()
    archive.mkdir()
    tutorial.run(*words, "--yes", code=2)
    archive.rmdir()
    archive.write_bytes(first)
    shutil.move(archive, tutorial.folder / "model.tar.gz")
    shutil.unpack_archive(tutorial.folder / "model.tar.gz", tutorial.folder / "unpacked")
    assert {"mlcube.yaml", "parameters.yaml", "additional_files.tar.gz", "manifest.json"} <= {
        item.name for item in (tutorial.folder / "unpacked").iterdir()
    }


def test_logs_are_listed_shown_and_bundled(tutorial: Tutorial) -> None:
    tutorial.run("auth", "status")
    first = tutorial.json("logs", "ls")[0]
    assert "command: ['auth', 'status']" in tutorial.run("logs", "view").stdout
    assert tutorial.run("logs", "view", first["name"]).stdout == tutorial.run("logs", "view", "last").stdout
    assert tutorial.json("logs", "view")["name"] == first["name"]
    assert first["name"] in tutorial.run("logs").stdout
    assert "versions.json" in tutorial.run("logs", "--bundle", "logs.tar.gz").stdout
    assert (tutorial.folder / "logs.tar.gz").stat().st_mode & 0o777 == 0o600
    task = next(log for log in tutorial.json("logs", "ls") if log["task"] == "evaluate")
    assert task["name"].startswith("tasks/evaluate-") and task["changed"].endswith("Z")
    assert tutorial.json("logs", "view", "tasks/evaluate")["name"] == task["name"]
    assert tutorial.json("logs", "view", task["name"])["lines"] is not None
    assert task["name"] in tutorial.run("logs").stdout
    assert not any("tasks" in name for name in tutorial.run("logs", "bundle", "more.tar.gz").stdout.splitlines())
    tutorial.run("logs", "bundle", "logs.tar.gz", code=2)
    tutorial.run("logs", "view", "nothing", code=5)


def test_doctor_says_what_is_there(tutorial: Tutorial) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medperf_core.cli", "doctor", "--format", "json"],
        cwd=tutorial.folder,
        env=tutorial.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    checks = {check["name"]: check["health"] for check in json.loads(done.stdout)}
    assert checks["server"] == checks["process runner"] == "ok"
    assert done.returncode == ("failed" in checks.values())
    unknown = tutorial.run("--platform", "rocket", "doctor", code=1).stdout
    assert re.search(r"^profile +failed .*platform rocket.*Installed: ", unknown, re.MULTILINE)
    tutorial.run("auth", "logout")
    assert "Nobody is logged in" in tutorial.run("doctor", code=1).stdout

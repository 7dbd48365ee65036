"""What a user reads while a container is published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .tutorial import Tutorial

MODEL = "medperf_tutorial/MODEL/mlcube"


@pytest.fixture
def share(tutorial: Tutorial) -> str:
    return (tutorial.folder / "share").as_uri()


def test_a_dry_run_says_what_would_go_where(tutorial: Tutorial, share: str) -> None:
    shown = tutorial.run(
        "mlcube", "publish", MODEL, "--to", share, "--dry-run", "--name", "published", "--development"
    ).stderr
    parameters = Path(tutorial.folder, MODEL).resolve() / "workspace" / "parameters.yaml"
    assert re.search(
        rf"^parameters\.yaml, \d+ bytes, from {parameters}\n  to upload: {share}/\w+/par", shown, re.MULTILINE
    )
    assert re.search(
        r"^To upload: \d files, [0-9.]+ KiB\. Nothing was uploaded or registered \(--dry-run\)\.$", shown, re.MULTILINE
    )
    assert "OPERATION is final: what is registered" not in shown
    assert "  holds 1 file: weights.json\n" in shown
    assert "To register: the model published (DEVELOPMENT: it can be edited).\nIts addresses: those above.\n" in shown
    assert not (tutorial.folder / "share").exists()


def test_what_is_asked_and_what_is_done_can_be_understood(tutorial: Tutorial, share: str) -> None:
    done = tutorial.run("mlcube", "publish", MODEL, "--to", share, "--name", "published", "--development", "--yes")
    shown = done.stderr
    assert re.search(rf"^About to upload: \d files, [0-9.]+ KiB\nTo: {share}$", shown, re.MULTILINE)
    asked = shown.partition("About to upload")[2].partition("Sent without asking")[0]
    assert str(Path(tutorial.folder, MODEL).resolve() / "mlcube.yaml") in asked
    assert f"{tutorial.environment['MEDPERF_HOME']}" not in asked  # where temporary files are
    steps = [line for line in shown.splitlines() if line.endswith((" ...", ": done"))]
    assert steps and all(line[0].isupper() for line in steps)
    assert re.search(rf"^Uploading \d files to {share}: done$", shown, re.MULTILINE)
    assert "Reading back parameters.yaml: done" in shown
    assert re.search("^Registered published as MLCube [0-9]+ .*it can still be edited", shown, re.MULTILINE)
    assert re.search("^Next: medperf test run --benchmark BENCHMARK --model [0-9]+$", shown, re.MULTILINE)
    assert '"names": [\n' in asked and '"weights.json"' in asked
    assert all(re.fullmatch(rf"[0-9a-f]{{64}} +\d+  {share}/\S+", line) for line in done.stdout.splitlines())
    again = tutorial.run(
        "mlcube", "publish", MODEL, "--to", share, "--dry-run", "-n", "published", "--development"
    ).stderr
    assert "is there already: " in again and "To upload: 0 files, 0 bytes." in again


@pytest.mark.parametrize(
    ("to", "hint"),
    [
        ("file:///a b", "Write %20 for a blank"),
        ("s3://bucket/a b", "choose names without blanks"),
        ("gs://bucket/a b", "choose names without blanks"),
    ],
)
def test_the_hint_for_a_blank_fits_the_kind_of_address(tutorial: Tutorial, to: str, hint: str) -> None:
    shown = tutorial.run("mlcube", "publish", MODEL, "--to", to, "--dry-run", code=2).stderr
    assert hint in shown and (hint.startswith("Write") or "Write %20" not in shown)


def test_a_manifest_of_any_name_can_be_published(tutorial: Tutorial, share: str) -> None:
    manifest = Path(tutorial.folder, MODEL, "mlcube.yaml").resolve()
    manifest.rename(manifest.with_name("my #1 cube%20.yaml"))
    path = f"{MODEL}/my #1 cube%20.yaml"
    done = tutorial.run("mlcube", "publish", path, "--to", share, "--name", "odd", "--development", "--yes")
    assert "/manifest.yaml" in done.stdout and "Registered odd" in done.stderr

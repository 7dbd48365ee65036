"""What is wrong with the input is said in clear words, and the exit code is 1."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from medperf_examples import wdbc

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def prepared(chain: Path, tmp_path: Path) -> Path:
    """A copy of hospital A's prepared data and predictions to spoil."""
    for name in ("data", "labels", "model_logreg"):
        shutil.copytree(chain / "hospital_a" / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def export_a(tmp_path: Path) -> Path:
    return _copy("hospital_a", tmp_path)


@pytest.fixture
def export_b(tmp_path: Path) -> Path:
    return _copy("hospital_b", tmp_path)


def _copy(name: str, folder: Path) -> Path:
    hospital = wdbc.hospital(name)
    shutil.copytree(hospital.data_path, folder / "raw")
    shutil.copytree(hospital.labels_path, folder / "raw_labels")
    return folder


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def drop_line(path: Path, start: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(start)]
    assert len(kept) == len(lines) - 1
    path.write_text("".join(kept))


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr


def prepare(run: Run, folder: Path) -> subprocess.CompletedProcess[str]:
    done = run(
        "data_preparator",
        "prepare",
        data_path=folder / "raw",
        labels_path=folder / "raw_labels",
        output_path=folder / "data",
        output_labels_path=folder / "labels",
    )
    if done.returncode:
        assert not (folder / "data").exists(), "refused input must leave no output"
    return done


def check(run: Run, folder: Path, **more: Path) -> subprocess.CompletedProcess[str]:
    return run("data_preparator", "sanity_check", data_path=folder / "data", labels_path=folder / "labels", **more)


def infer(run: Run, folder: Path, **more: Path) -> subprocess.CompletedProcess[str]:
    return run("model_logreg", "infer", data_path=folder / "data", output_path=folder / "out", **more)


def evaluate(run: Run, folder: Path) -> subprocess.CompletedProcess[str]:
    done = run(
        "metrics",
        "evaluate",
        predictions=folder / "model_logreg",
        labels=folder / "labels",
        output_path=folder / "results.yaml",
    )
    assert done.returncode == 0 or not (folder / "results.yaml").exists()
    return done


def test_decimal_point_in_a_comma_export(run: Run, export_a: Path) -> None:
    replace(export_a / "raw" / "zellkerne.csv", "A-0001;17,99;", "A-0001;17.99;")
    refused(prepare(run, export_a), "A-0001", "Radius_MW", "'17.99'", "decimal comma")


def test_lost_decimal_comma(run: Run, export_a: Path) -> None:
    replace(export_a / "raw" / "zellkerne.csv", "A-0001;17,99;", "A-0001;1799;")
    assert prepare(run, export_a).returncode == 0
    refused(check(run, export_a), "A-0001", "mean_radius is 1799, outside 1 to 60")


def test_patient_without_label(run: Run, export_a: Path) -> None:
    drop_line(export_a / "raw_labels" / "befunde.csv", "A-0001;")
    refused(prepare(run, export_a), "patient A-0001 has no label")


def test_label_without_patient(run: Run, export_b: Path) -> None:
    (export_b / "raw" / "B-0005.json").unlink()
    refused(prepare(run, export_b), "unknown patient B-0005")


def test_patient_exported_twice(run: Run, export_b: Path) -> None:
    shutil.copy(export_b / "raw" / "B-0005.json", export_b / "raw" / "copy.json")
    refused(prepare(run, export_b), "copy.json", "B-0005 occurs twice")


def test_diagnosis_among_the_measurements(run: Run, export_b: Path) -> None:
    path = export_b / "raw" / "B-0005.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "diagnosis": "malignant"}))
    refused(prepare(run, export_b), "B-0005", "'diagnosis' is not expected here")


@pytest.mark.parametrize("wrong", ["NaN", '"20.29"', "null", "-1"])
def test_measurement_that_is_no_number(run: Run, export_b: Path, wrong: str) -> None:
    replace(export_b / "raw" / "B-0005.json", "20.29", wrong)
    refused(prepare(run, export_b), "B-0005", "not a number")


def test_file_of_an_unknown_style(run: Run, export_a: Path) -> None:
    (export_a / "raw" / "scan.dcm").write_bytes(b"")
    refused(prepare(run, export_a), "scan.dcm", "no known export style")


def test_empty_hospital(run: Run, export_a: Path) -> None:
    (export_a / "raw" / "zellkerne.csv").unlink()
    refused(prepare(run, export_a), "holds no patients")


def test_label_file_beside_the_cases(run: Run, prepared: Path) -> None:
    shutil.copy(prepared / "labels" / "labels.csv", prepared / "data")
    refused(check(run, prepared), "labels.csv", "leak the label")


def test_label_column_in_the_cases(run: Run, prepared: Path) -> None:
    replace(prepared / "data" / "cases.csv", "patient_id,", "patient_id,malignant,")
    refused(check(run, prepared), "'malignant'", "leak the label")


def test_missing_column(run: Run, prepared: Path) -> None:
    replace(prepared / "data" / "cases.csv", "mean_texture", "texture")
    refused(check(run, prepared), "'mean_texture' is missing")
    refused(infer(run, prepared), "lacks the columns mean_texture")


def test_labels_of_other_patients(run: Run, prepared: Path) -> None:
    replace(prepared / "labels" / "labels.csv", "A-0001,", "A-9999,")
    refused(check(run, prepared), "A-0001 has no label", "unknown patient A-9999")


def test_swapped_mean_and_worst(run: Run, prepared: Path) -> None:
    replace(prepared / "data" / "cases.csv", "mean_radius", "X")
    replace(prepared / "data" / "cases.csv", "worst_radius", "mean_radius")
    replace(prepared / "data" / "cases.csv", "X", "worst_radius")
    refused(check(run, prepared), "not in the order of the schema")


def test_worst_below_mean(run: Run, prepared: Path) -> None:
    replace(prepared / "data" / "cases.csv", "A-0001,17.99,", "A-0001,27.99,")
    refused(check(run, prepared), "A-0001: worst_radius is below mean_radius")


def test_too_few_patients(run: Run, prepared: Path) -> None:
    (prepared / "strict.yaml").write_text("minimum_cases: 181\n")
    refused(check(run, prepared, parameters_file=prepared / "strict.yaml"), "180 patients", "minimum of 181")


@pytest.mark.parametrize("line", ["minimum_casez: 5", "minimum_cases: five", "minimum_cases 5", "minimum_cases: 5.5"])
def test_parameters_that_mean_nothing(run: Run, prepared: Path, line: str) -> None:
    (prepared / "odd.yaml").write_text(line + "\n")
    refused(check(run, prepared, parameters_file=prepared / "odd.yaml"), "odd.yaml, line 1", "minimum_case")


def test_small_class_is_not_counted(run: Run, prepared: Path) -> None:
    (prepared / "strict.yaml").write_text("suppress_counts_below: 68\n")
    done = run(
        "data_preparator",
        "statistics",
        data_path=prepared / "data",
        labels_path=prepared / "labels",
        parameters_file=prepared / "strict.yaml",
        output_path=prepared / "statistics.yaml",
    )
    assert done.returncode == 0
    text = (prepared / "statistics.yaml").read_text()
    assert "  malignant: suppressed (below 68)\n  benign: suppressed (below 68)\n" in text
    assert "67" not in text.partition("features:")[0] and "113" not in text.partition("features:")[0]


def test_measurement_nan_stops_inference(run: Run, prepared: Path) -> None:
    replace(prepared / "data" / "cases.csv", "A-0001,17.99,", "A-0001,nan,")
    refused(infer(run, prepared), "A-0001, mean_radius", "'nan'")
    refused(check(run, prepared), "A-0001", "mean_radius", "'nan'")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"features": ["mean_radius"]}'])
def test_foreign_weights(run: Run, prepared: Path, content: str) -> None:
    (prepared / "w.json").write_text(content)
    refused(infer(run, prepared, weights=prepared / "w.json"), "w.json is not a weights file")


def test_missing_prediction(run: Run, prepared: Path) -> None:
    drop_line(prepared / "model_logreg" / "predictions.csv", "A-0001,")
    refused(evaluate(run, prepared), "no prediction for patient A-0001")


def test_prediction_for_a_stranger(run: Run, prepared: Path) -> None:
    with (prepared / "model_logreg" / "predictions.csv").open("a") as stream:
        stream.write("A-9999,0.5\n")
    refused(evaluate(run, prepared), "unknown patient A-9999")


@pytest.mark.parametrize("wrong", ["nan", "inf", "1.2", "-0.1", "", "high"])
def test_probability_that_is_none(run: Run, prepared: Path, wrong: str) -> None:
    path = prepared / "model_logreg" / "predictions.csv"
    drop_line(path, "A-0001,")
    with path.open("a") as stream:
        stream.write(f"A-0001,{wrong}\n")
    refused(evaluate(run, prepared), f"patient A-0001: probability {wrong!r} is not a number from 0 to 1")


def test_empty_labels_folder(run: Run, prepared: Path) -> None:
    (prepared / "labels" / "labels.csv").unlink()
    refused(evaluate(run, prepared), "labels.csv is empty or missing")


def test_labels_without_a_patient(run: Run, prepared: Path) -> None:
    (prepared / "labels" / "labels.csv").write_text("patient_id,malignant\n")
    refused(evaluate(run, prepared), "labels.csv holds no patients")

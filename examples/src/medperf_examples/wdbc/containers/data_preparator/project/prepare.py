"""Task `prepare`: any mix of the known export styles becomes one table of cases and one of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, TypeVar

import style_json
import style_semicolon
import tables
from problems import DataError

Value = TypeVar("Value")


def run(data_path: Path, labels_path: Path, output_path: Path, output_labels_path: Path) -> None:
    """Read everything first, so that bad input leaves no half-written output."""
    cases = _collect(data_path, {".csv": style_semicolon.read_cases, ".json": style_json.read_cases})
    labels = _collect(labels_path, {".csv": style_semicolon.read_labels, ".json": style_json.read_labels})
    reasons = [f"patient {name} has no label" for name in sorted(cases.keys() - labels.keys())]
    reasons += [f"label of unknown patient {name}" for name in sorted(labels.keys() - cases.keys())]
    if reasons:
        raise DataError(*reasons)
    tables.write_cases(output_path, cases)
    tables.write_labels(output_labels_path, labels)
    print(f"prepared {len(cases)} patients")


def _collect(folder: Path, readers: dict[str, Callable[[Path], list[tuple[str, Value]]]]) -> dict[str, Value]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    found: dict[str, Value] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name.startswith("."):
            continue
        reader = readers.get(path.suffix.lower())
        if reader is None:
            raise DataError(f"{path.name}: no known export style has files ending in {path.suffix!r}")
        for name, value in reader(path):
            if name in found:
                raise DataError(f"{path.name}: patient {name} occurs twice")
            found[name] = value
    if not found:
        raise DataError(f"{folder} holds no patients")
    return found

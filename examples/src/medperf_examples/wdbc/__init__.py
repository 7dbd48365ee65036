"""The breast cancer benchmark: containers, demo data and the raw data of two hospitals.

Everything is read-only package data. Nothing here imports medperf-core, so the same files can
be handed to any other client that reads the manifests.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from medperf_examples.tarballs import pack

__all__ = ["Hospital", "containers", "hospital", "hospitals", "root", "write_demo_dataset"]

DEMO_NAME = "demo_dataset.tar.gz"


class Hospital(NamedTuple):
    """Where one hospital keeps the raw material of its dataset."""

    name: str
    data_path: Path
    labels_path: Path


def root() -> Path:
    """The folder that holds the whole benchmark."""
    return Path(str(files("medperf_examples"))) / "wdbc"


def containers() -> dict[str, Path]:
    """Container names to their folders; each holds `mlcube/`, `project/` and `container_config.yaml`."""
    return {folder.name: folder for folder in sorted((root() / "containers").iterdir()) if folder.is_dir()}


def hospitals() -> list[str]:
    """The names that `hospital` knows."""
    return sorted(folder.name for folder in (root() / "hospitals").iterdir() if folder.is_dir())


def hospital(name: str) -> Hospital:
    """Raw data and labels of one hospital, for example `hospital("hospital_a")`."""
    if name not in hospitals():
        raise KeyError(f"no hospital {name!r}; there are: {', '.join(hospitals())}")
    folder = root() / "hospitals" / name
    return Hospital(name, folder / "raw", folder / "labels")


def write_demo_dataset(target: Path) -> Path:
    """Pack the demo dataset and return the tarball; `target` is a file name or an existing folder.

    The same Python and zlib always give the same bytes, so the hash may be registered.
    """
    if target.is_dir():
        target = target / DEMO_NAME
    pack(root() / "demo", target)
    return target

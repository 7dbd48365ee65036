"""Folders that a person named: made with those above them, or refused with words."""

from __future__ import annotations

from pathlib import Path

import pytest

from medperf_core.errors import UsageError
from medperf_core.site.folders import check_place, make_folder


def test_a_folder_is_made_with_those_above_it_and_kept_if_it_is_there(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(tmp_path / "a" / "b", "The output folder")
        assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("name", ["file", "file/out", "x" * 300])
def test_a_folder_that_cannot_be_is_wrong_usage(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"^The output folder cannot be made: .+ \(/.+\)\. Name"):
        make_folder(tmp_path / name, "The output folder")


def test_a_place_is_free_taken_or_impossible(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "new", "no/such"):
        check_place(tmp_path / name, "--output")
    for name in ("file/out", "x" * 300):
        with pytest.raises(UsageError, match=r"^--output cannot be used: "):
            check_place(tmp_path / name, "--output")

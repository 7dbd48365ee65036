"""``medperf cache``: what is kept is listed, checked in full, and freed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from medperf_core.cli.root import make_root
from medperf_core.errors import VerificationError
from medperf_core.site.cache import Cache
from medperf_core.site.partials import PartialRecord


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDPERF_HOME", str(tmp_path / "home"))
    assert CliRunner().invoke(make_root(), ["cache", "ls"]).exit_code == 0
    cache = Cache(tmp_path / "home" / "cache" / "files")
    for content in (b"one", b"two"):
        path = cache.temporary()
        path.write_bytes(content)
        import hashlib

        cache.add(hashlib.sha256(content).hexdigest(), path)
    return tmp_path / "home"


def medperf(*words: str) -> tuple[int, str, str]:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "medperf_core.cli", *words], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_ls_and_its_older_name(home: Path) -> None:
    for name in ("cache", "storage"):
        code, out, _ = medperf(name, "ls", "--format", "json")
        assert code == 0 and sorted(entry["size"] for entry in json.loads(out)) == [3, 3]


def test_verify_finds_and_drops_what_was_changed_behind_its_back(home: Path) -> None:
    assert medperf("cache", "verify")[0] == 0
    entry = Cache(home / "cache" / "files").entries()[0]
    status = entry.path.stat()
    entry.path.chmod(0o644)
    entry.path.write_bytes(b"xxx")
    import os

    os.utime(entry.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    code, _, error = medperf("cache", "verify")
    assert code == VerificationError.exit_code and entry.sha256 in error
    assert len(Cache(home / "cache" / "files").entries()) == 1
    assert medperf("cache", "verify")[0] == 0


def test_clear(home: Path) -> None:
    assert medperf("cache", "clear")[0] == 0
    assert Cache(home / "cache" / "files").entries() == []


def test_what_came_of_an_interrupted_fetch_is_shown_and_freed(home: Path) -> None:
    cache = Cache(home / "cache" / "files")
    with cache.partials.taken("https://host/file", "a" * 64) as partial:
        assert partial
        partial.path.write_bytes(bytes(1000))
        partial.note(PartialRecord("a" * 64, '"v1"', 4000))
    code, out, _ = medperf("cache", "ls", "--format", "json")
    (shown,) = [entry for entry in json.loads(out) if entry["kind"] == "partial"]
    assert (code, shown["sha256"], shown["size"]) == (0, "a" * 64, 1000)
    code, _, error = medperf("cache", "verify")
    assert (code, "All 2 entries" in error) == (0, True)
    code, _, error = medperf("cache", "clear")
    assert code == 0 and "1006 bytes" in error
    assert not list((cache.root / "partial").glob("*.part")) and not list((cache.root / "partial").glob("*.json"))

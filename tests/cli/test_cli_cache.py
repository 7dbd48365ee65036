"""``medperf cache``: what is kept is listed, checked in full, and freed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from medperf_core import Site
from medperf_core.cli.root import make_root
from medperf_core.errors import VerificationError
from medperf_core.site.bundles import BundleStore
from medperf_core.site.cache import Cache
from medperf_core.site.kept_steps import note_step_use
from medperf_core.site.partials import PartialRecord


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def age(home: Path, content: bytes) -> None:
    name = sha256(content)
    os.utime(home / "cache" / "files" / "files" / name[:2] / f"{name}.json", (1, 1))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDPERF_HOME", str(tmp_path / "home"))
    assert CliRunner().invoke(make_root(), ["cache", "ls"]).exit_code == 0
    cache = Cache(tmp_path / "home" / "cache" / "files")
    for content in (b"one", b"two"):
        path = cache.temporary()
        path.write_bytes(content)
        cache.add(sha256(content), path)
    return tmp_path / "home"


def medperf(*words: str) -> tuple[int, str, str]:
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
    os.utime(entry.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    code, _, error = medperf("cache", "verify")
    assert code == VerificationError.exit_code and entry.sha256 in error
    assert len(Cache(home / "cache" / "files").entries()) == 1
    assert medperf("cache", "verify")[0] == 0


def test_clear(home: Path) -> None:
    code, _, error = medperf("cache", "clear")
    assert code == 0 and "Freed 6 bytes, 2 entries." in error
    assert Cache(home / "cache" / "files").entries() == []


def test_clear_leaves_what_running_commands_use(home: Path) -> None:
    step = home / "cache" / "steps" / ("ab" * 32)
    for path in (step / "step.json", home / "cache" / "singularity" / "images" / "x" / "image.sif"):
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    (home / "cache" / "singularity" / "images" / ".kept.lock").touch()
    with Site.open(home) as site:
        assert site.cache.file(sha256(b"one"))
        note_step_use(step)
        os.utime(home / "cache" / "singularity" / "images" / "x", (1, 1))
        age(home, b"two")
        code, _, error = medperf("cache", "clear")
        assert code == 0 and "because running commands may use them" in error
        assert site.cache.file(sha256(b"one")) and not site.cache.file(sha256(b"two"))
        assert step.is_dir() and not (home / "cache" / "singularity" / "images" / "x").exists()
    assert medperf("cache", "clear")[0] == 0
    assert not step.exists() and Cache(home / "cache" / "files").entries() == []


def test_clear_leaves_what_bundles_brought_unless_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BundleStore, "files", lambda self: frozenset({sha256(b"one")}))

    def clear(*words: str, answer: str = "") -> str:
        return CliRunner().invoke(make_root(), ["cache", "clear", *words], input=answer).output

    assert "3 bytes stay because bundles brought them" in clear()
    left = [entry.sha256 for entry in Cache(home / "cache" / "files").entries()]
    assert left == [sha256(b"one")]
    assert "Free 1 file that a bundle brought too?" in clear("--bundles", answer="n\n")
    assert Cache(home / "cache" / "files").entries()
    assert "no terminal to ask" in clear("--bundles")
    assert Cache(home / "cache" / "files").entries()
    assert "Freed 3 bytes, 1 entry." in clear("--bundles", "--yes")
    assert Cache(home / "cache" / "files").entries() == []


def test_what_killed_commands_left_is_shown(home: Path) -> None:
    Cache(home / "cache" / "files").temporary().write_bytes(bytes(5000))
    assert "4.9 KiB more are on their way in, or were left by killed commands" in medperf("cache", "ls")[2]
    assert "Would remove 4.9 KiB that interrupted commands left" in medperf("cache", "gc", "--dry-run")[2]
    assert "Removed 4.9 KiB that interrupted commands left" in medperf("cache", "gc")[2]
    assert "on their way in" not in medperf("cache", "ls")[2]


def test_move_says_what_stays(home: Path, tmp_path: Path) -> None:
    (home / "cache" / "notes.txt").write_text("mine")
    (home / "cache" / "docker" / "builds").mkdir(parents=True)
    (home / "cache" / "strange").mkdir()
    code, _, error = medperf("cache", "move", str(tmp_path / "disk"))
    assert code == 0 and f"{home / 'cache'} is still there: it holds files that are not the cache's" in error
    assert (tmp_path / "disk" / "medperf-cache" / "docker" / "builds").is_dir()
    assert {path.name for path in (home / "cache").iterdir()} == {"notes.txt", "strange"}


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

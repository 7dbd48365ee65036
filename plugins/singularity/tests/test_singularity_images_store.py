"""The store under bad luck: two processes at once, kill -9, full disks, other accounts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from medperf_singularity import store
from medperf_singularity.files import Fingerprint, remove_tree
from medperf_singularity.store import Record

from medperf_core.entities import ImageSource, SourceKind
from medperf_core.errors import ExecutionError
from medperf_core.plugin import Notice, StepStarted

PREPARE = """
import sys
from pathlib import Path
from medperf_core.entities import ImageSource, SourceKind
from medperf_core.plugin import BackendContext
from medperf_singularity.plugin import SingularitySettings
from medperf_singularity.runner import SingularityRunner
program, folder, archive = sys.argv[1:]
def emit(event):
    print(type(event).__name__, getattr(event, "what", ""), flush=True)
context = BackendContext(Path(folder, "cache"), Path(folder, "tmp"), emit=emit)
runner = SingularityRunner(SingularitySettings(program=program, docker_host="none"), context)
print("PREPARED", runner.prepare(ImageSource(SourceKind.ARCHIVE, archive)).reference, flush=True)
"""


def start(place: Any, archive: Path, **changes: Any) -> subprocess.Popen[str]:
    """Another program that prepares an archive in the same folders."""
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, place.program, str(place.folder), str(archive)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **changes,
    )


@pytest.fixture
def archive(make_image: Callable[..., Any], tmp_path: Path) -> Path:
    make_image(files={"data/much": os.urandom(24 << 20)}).save(tmp_path / "image.tar")
    return tmp_path / "image.tar"


def test_two_programs_at_once_convert_once(place: Any, archive: Path) -> None:
    both = [start(place, archive) for _ in range(2)]
    told = [program.communicate()[0] for program in both]
    assert [program.returncode for program in both] == [0, 0], told
    assert sum("StepStarted Converting" in text for text in told) == 1
    assert len({text.splitlines()[-1] for text in told}) == 1
    assert len(place.kept()) == 1 and place.work() == []


def test_what_a_killed_conversion_left_is_removed_and_made_again(place: Any, archive: Path) -> None:
    first = start(place, archive)
    assert first.stdout is not None
    for line in first.stdout:
        if "StepStarted Converting" in line:
            break
    patience = time.monotonic() + 30
    while not any(file.read_text() for file in Path(f"/proc/{first.pid}/task").glob("*/children")):
        assert time.monotonic() < patience, "the engine did not begin"
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.wait()
    left = [*place.kept(), *place.work()]
    assert left and not any((folder / store.RECORD).exists() for folder in left)
    prepared = place.runner().prepare(ImageSource(SourceKind.ARCHIVE, str(archive)))
    assert place.told(Notice, "killed")
    assert [folder.name for folder in place.kept()] == [Path(prepared.reference).parent.name]
    assert place.work() == []


def test_the_work_of_a_program_that_goes_on_is_not_removed(place: Any) -> None:
    with store.new_folder(place.folder / "tmp"):
        other = place.folder / "tmp" / f"{store.NEW}000000000000.{'0' * 32}.1.1"  # of another machine
        other.mkdir()
        assert store.remove_leftovers(place.context()) == 0
        assert len(place.work()) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    subprocess.check_call(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)])
    yield folder
    subprocess.check_call(["umount", str(folder)])


@pytest.mark.parametrize("full", ["cache_dir", "temp_dir"])
def test_a_disk_without_room_is_told_before_anything_is_converted(
    place: Any, archive: Path, small_disk: Path, full: str
) -> None:
    runner = place.runner(**{full: small_disk / "there"})
    with pytest.raises(ExecutionError, match=r"no room to (convert|unpack) .*needed on the disk of .*small.* are free"):
        runner.prepare(ImageSource(SourceKind.ARCHIVE, str(archive)))
    assert place.told(StepStarted, "Converting") == []
    assert not list(small_disk.rglob("image.sif"))


def test_a_layer_that_unpacks_to_more_than_the_disk_has_is_refused_while_it_comes(
    place: Any, make_image: Callable[..., Any], tmp_path: Path, small_disk: Path
) -> None:
    path = tmp_path / "bomb.tar"
    make_image(pack="zstd", files={"data/bomb": bytes(300 << 20)}).save(path)
    assert path.stat().st_size < 4 << 20
    with pytest.raises(ExecutionError, match="no room to unpack"):
        place.runner(temp_dir=small_disk / "tmp").prepare(ImageSource(SourceKind.ARCHIVE, str(path)))
    assert place.kept() == []


def test_root_and_an_unprivileged_user_convert(place: Any, make_image: Callable[..., Any], tasks: Any) -> None:
    source = ImageSource(SourceKind.ARCHIVE, str(tasks.folder / "image.tar"))
    make_image(files={"data/note": b"first"}).save(Path(source.location))
    place.runner().prepare(source)  # imports all that it takes, which that account may not read
    make_image(files={"data/note": b"own"}).save(Path(source.location))
    site = type(place)(tasks.folder, place.program)

    def convert() -> None:
        prepared = site.runner().prepare(source)
        store.describe(site.context(), prepared)
        command = [place.program, "-s", "exec", "--containall", prepared.reference, "/bin/cat", "/data/note"]
        assert subprocess.check_output(command, cwd="/") == b"own"
        assert Path(prepared.reference).stat().st_uid == os.geteuid()
        assert site.work() == []

    tasks.do(convert)


def test_a_record_is_read_as_it_was_written_and_nothing_else_is(place: Any, archive: Path) -> None:
    prepared = place.runner().prepare(ImageSource(SourceKind.ARCHIVE, str(archive)))
    path = Path(prepared.reference).parent / store.RECORD
    record = Record.load(path)
    assert record.fingerprint == Fingerprint.of(Path(prepared.reference))
    path.write_bytes(record.dump())
    assert Record.load(path) == record
    whole = path.read_text()
    for text in ("", "[]", "{}", "{" * 100_000, whole.replace('"version": 1', '"version": 2'), whole[:-20], "\0"):
        path.write_text(text)
        with pytest.raises(ValueError):
            Record.load(path)


def test_a_tree_that_lets_nobody_in_is_removed(tmp_path: Path) -> None:
    closed = tmp_path / "tree" / "closed" / "inner"
    closed.mkdir(parents=True)
    (closed / "file").write_text("x")
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "tree" / "link").symlink_to(kept)
    closed.chmod(0o000)
    closed.parent.chmod(0o000)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists() and kept.is_dir()

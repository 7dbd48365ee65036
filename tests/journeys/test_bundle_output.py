"""A bundle while it is written: over nobody's file, by one command at a time; going on with what is there."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.entities import Container
from medperf_core.errors import InvalidEntityError, UsageError
from medperf_core.journeys.bundle import CreatedBundle, create_bundle
from medperf_core.journeys.bundle_files import participants
from medperf_core.plugin import Event
from medperf_core.plugin.events import Notice, StepStarted
from medperf_core.site import fetch
from medperf_core.site.bundle_file import reading
from medperf_core.site.bundle_part import part_of
from medperf_core.site.cache import Cache

from .conftest import Tutorial

pytestmark = pytest.mark.usefixtures("no_network")


def create(shared: Tutorial, output: Path, on_event: Callable[[Event], None] = lambda event: None) -> CreatedBundle:
    with shared.site() as site:
        site._on_event = on_event
        return create_bundle(site, benchmark=1, output=output, platforms=["process"])


@attrs.frozen
class Appearing:
    """Another program writes a file of the bundle's name once the bundle is being written."""

    output: Path
    told: list[str] = attrs.field(factory=list)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepStarted) and event.what.startswith("Writing"):
            self.output.write_text("somebody's")
        if isinstance(event, Notice):
            self.told.append(event.message)


def no_links(*words: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_stays(
    links: bool, shared: Tutorial, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:  # as on a stick with a FAT file system
        monkeypatch.setattr(os, "link", no_links)
    output = tmp_path / "b.tar"
    appearing = Appearing(output)
    with pytest.raises(UsageError, match=r"appeared meanwhile.*was not overwritten"):
        create(shared, output, appearing)
    assert output.read_text() == "somebody's" and appearing.told == []
    output.unlink()
    told: list[str] = []
    made = create(shared, output, lambda event: told.append(getattr(event, "message", "")))
    count = len(made.index.entries)
    assert made.kept == made.index.size and f"Going on with {part_of(output)}: {count} of {count} files" in str(told)
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar"] and output.stat().st_nlink == 1
    with reading(output) as reader:
        assert len(list(reader.entries(made.index.entries))) == count


def test_it_says_what_it_goes_on_with(shared: Tutorial, bundle: Path, tmp_path: Path) -> None:
    output, told = tmp_path / "b.tar", []
    create(shared, output)
    data = output.read_bytes()
    output.unlink()
    part_of(output).write_bytes(data[: len(data) // 2])
    part_of(output).chmod(0o600)
    made = create(shared, output, lambda event: told.append(getattr(event, "message", "")))
    assert 0 < made.kept < made.index.size
    (text,) = [text for text in told if text.startswith("Going on with")]
    assert f"of {len(made.index.entries)} files" in text and not text.startswith("0 of")
    assert output.read_bytes() == data


def hard_link(part: Path) -> None:
    other = part.with_name("other")
    other.write_text("of somebody")
    os.link(other, part)


def of_another_user(part: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make files of others")
    part.write_text("of somebody")
    os.chown(part, 65534, 65534)


@pytest.mark.parametrize("make", [os.mkfifo, hard_link, of_another_user])
def test_a_part_that_is_not_ones_own_is_left_alone(
    make: Callable[[Path], None], shared: Tutorial, bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "b.tar"
    make(part_of(output))
    before = part_of(output).lstat()
    with pytest.raises(UsageError, match="not a file of this user alone"):
        create(shared, output)
    after = part_of(output).lstat()
    assert (after.st_size, after.st_mtime_ns, after.st_mode) == (before.st_size, before.st_mtime_ns, before.st_mode)
    assert not output.exists()


def test_a_part_that_was_left_when_the_bundle_had_its_name(shared: Tutorial, bundle: Path, tmp_path: Path) -> None:
    """Killed between the two."""
    output = tmp_path / "b.tar"
    output.write_bytes(bundle.read_bytes())
    os.link(output, part_of(output))
    with pytest.raises(UsageError, match="there already"):
        create(shared, output)
    assert output.read_bytes() == bundle.read_bytes() and not part_of(output).exists()
    part_of(output).write_text("of something else")
    with pytest.raises(UsageError, match="there already"):
        create(shared, output)
    assert part_of(output).exists()


def is_part(descriptor: int, output: Path) -> bool:
    return part_of(output).exists() and os.path.samestat(os.fstat(descriptor), part_of(output).stat())


def test_a_part_that_got_its_name_before_it_was_locked(
    shared: Tutorial, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other command finished between opening and locking: its bundle must not be written to."""
    output, real = tmp_path / "b.tar", fcntl.flock
    part_of(output).write_bytes(bundle.read_bytes())

    def flock(descriptor: int, operation: int) -> None:
        if is_part(descriptor, output):
            part_of(output).rename(output)
        real(descriptor, operation)

    monkeypatch.setattr("medperf_core.site.bundle_part.fcntl.flock", flock)
    with pytest.raises(UsageError, match="there already"):
        create(shared, output)
    assert output.read_bytes() == bundle.read_bytes() and not part_of(output).exists()


def test_a_part_that_was_removed_before_it_was_locked(
    shared: Tutorial, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, real = tmp_path / "b.tar", fcntl.flock
    removed: list[int] = []

    def flock(descriptor: int, operation: int) -> None:
        if not removed and is_part(descriptor, output):
            part_of(output).unlink()
            removed.append(1)
        real(descriptor, operation)

    monkeypatch.setattr("medperf_core.site.bundle_part.fcntl.flock", flock)
    made = create(shared, output)
    assert removed and made.path.exists() and not part_of(output).exists()


def test_files_are_fetched_beside_each_other(
    shared: Tutorial, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, real = threading.Barrier(2, timeout=20), fetch.Fetcher._fetch
    met: list[int] = []

    def meet(self: fetch.Fetcher, *words: Any) -> fetch.Fetched:
        if not met:
            two.wait()  # for ever, if one is fetched after the other
            met.append(1)
        return real(self, *words)

    with shared.site() as site:
        cache = Cache(site.cache_dir / "files")
        for entry in cache.entries():
            cache.remove(entry.sha256)
    monkeypatch.setattr(fetch.Fetcher, "_fetch", meet)
    create(shared, tmp_path / "b.tar")
    assert met


def test_what_was_withdrawn_is_not_put_in(
    shared: Tutorial, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shared.site() as site:
        real, gone = site.server.get, 2

        def get(kind: type[Any], uid: int) -> Any:
            found = real(kind, 2 if (kind, uid) == (Container, 9) else uid)
            if kind is Container:
                return attrs.evolve(found, id=uid, is_valid=uid != gone)
            return found

        monkeypatch.setattr(site.server, "get", get)
        with pytest.raises(InvalidEntityError, match=r"Container 2 .* was withdrawn.*medperf bundle remove"):
            participants(site, 1, ())
        gone = 9
        assert len(participants(site, 1, ()).containers) == 3
        with pytest.raises(InvalidEntityError, match=r"Container 9 .* was withdrawn.*without --model 9.*replaces"):
            participants(site, 1, (9,))

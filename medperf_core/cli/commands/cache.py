"""``medperf cache``: the local store of fetched files and of kept steps."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import click

from medperf_core.cli.output import Format, note, print_list
from medperf_core.cli.params import format_option
from medperf_core.cli.session import Session, pass_session
from medperf_core.errors import UsageError, VerificationError
from medperf_core.site.cache import CacheEntry, Kind
from medperf_core.site.kept_steps import STEPS

COLUMNS = (
    ("Kind", lambda item: item.kind.value),
    ("SHA-256", lambda item: item.sha256),
    ("Bytes", lambda item: item.size),
    ("Last used", lambda item: _moment(item.used)),
)
FREED = (
    ("Kind", lambda item: item.sort.value),
    ("Name", lambda item: item.name),
    ("Bytes", lambda item: item.size),
    ("Last used", lambda item: _moment(item.used)),
)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


@click.group()
def cache() -> None:
    """See, check, free and move what is kept of fetched files."""


@cache.command()
@format_option
@pass_session
def ls(session: Session, /, output: Format) -> None:
    """List what is in the cache, the longest unused first, and where it is."""
    with session.opened() as site:
        found = site.cache.entries()
        place = site.cache_dir
    print_list(found, COLUMNS, output, empty="The cache is empty.", whole=(0, 1))
    note(f"The cache is in {place}.")


@cache.command()
@pass_session
def verify(session: Session, /) -> None:
    """Hash everything in the cache again and drop what is not what it was."""
    with session.opened() as site:
        count = sum(entry.kind is not Kind.PARTIAL for entry in site.cache.entries())
        dropped: list[CacheEntry] = site.cache.verify()
    if dropped:
        names = ", ".join(f"{entry.kind} {entry.sha256}" for entry in dropped)
        raise VerificationError(
            f"{len(dropped)} of {count} entries of the cache were not what they were and were dropped: {names}.",
            hint="They are fetched again when they are needed; look for what changed them.",
        )
    note(f"All {count} entries are intact.")


@cache.command()
@pass_session
def clear(session: Session, /) -> None:
    """Remove all fetched files and all kept steps; they are fetched and run again when they are needed."""
    with session.opened() as site:
        freed = sum(site.cache.remove(entry.sha256) for entry in site.cache.entries())
        shutil.rmtree(site.cache_dir / STEPS, ignore_errors=True)
    note(f"Freed {freed} bytes of fetched files, and all kept steps.")


@cache.command()
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Only what was not used for so long.")
@click.option("--keep", metavar="SIZE", help="Stop once this much is left, such as 50g.")
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@format_option
@pass_session
def gc(session: Session, /, older_than: float | None, keep: str | None, dry_run: bool, output: Format) -> None:
    """Free what was not used for longest; without options, what was not used for 30 days.

    What a running command uses stays, and so do files that a loaded bundle brought.
    """
    from medperf_core.site.bundles import BundleStore
    from medperf_core.site.cache_gc import collect
    from medperf_core.site.options import parse_size

    left = None if keep is None else 0 if keep.strip() == "0" else parse_size(keep)
    with session.opened() as site:
        pinned = BundleStore(site.home).files()
        done = collect(site.home, older_than=older_than, keep=left, dry_run=dry_run, pinned=pinned)
    print_list(done.freed, FREED, output, empty="Nothing is to be freed.", whole=(0,))
    note(
        f"{'Would free' if dry_run else 'Freed'} {sum(item.size for item in done.freed)} bytes; {done.left} are "
        f"{'would be ' if dry_run else ''}left."
    )
    if done.busy:
        note(f"{done.busy} bytes stay because running commands may use them.")


@cache.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--lost", is_flag=True, help="The disk of the cache is gone for good: begin with an empty one.")
@pass_session
def move(session: Session, /, folder: Path, lost: bool) -> None:
    """Put the cache into FOLDER, on another disk for instance.

    It is copied, read back, switched to in one step, and removed from where it was. FOLDER must be new or empty.
    """
    from medperf_core.plugin.events import Progress, StepFinished, StepStarted
    from medperf_core.site.cache_move import move_cache

    if not str(folder).strip():
        raise UsageError("The folder has no name.")
    with session.opened() as site:
        what = f"moving the cache to {folder}"
        site.emit(StepStarted(what))

        def on_bytes(done: int, total: int) -> None:
            site.cancel.raise_if_cancelled()
            site.emit(Progress(what, done, total))

        moved = move_cache(site.home, folder, lost=lost, on_bytes=on_bytes)
        site.emit(StepFinished(what))
    note(f"The cache is now in {moved.new}: {moved.files} files of {moved.size} bytes.")

"""``medperf cache``: the local store of fetched files and of kept steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medperf_core.cli.output import Format, note, print_list
from medperf_core.cli.params import format_option, yes_option
from medperf_core.cli.session import Session, pass_session
from medperf_core.errors import CancelledError, UsageError, VerificationError
from medperf_core.site.sizes import readable

if TYPE_CHECKING:
    from medperf_core.cli.output import Column
    from medperf_core.site.bundles import BundleStore
    from medperf_core.site.cache_contents import Kept
    from medperf_core.site.cache_gc import Freed
    from medperf_core.site.site import Site

SHORT = 60
"""Characters of what a file is that a table shows."""
_ENGINES = (
    "Images in the stores of Docker and Podman are not counted here. Those that medperf built or loaded without a name "
    "are listed by: docker image ls localhost/medperf; free one: docker image rm localhost/medperf:TAG"
)


def _columns(bundles: BundleStore) -> list[Column[Kept]]:
    what: Mapping[str, str] = {entry.sha256: entry.what for bundle in bundles.list() for entry in bundle.index.entries}
    return [
        ("Kind", lambda item: item.sort.value),
        ("Name", lambda item: item.name),
        ("Size", lambda item: readable(item.size)),
        ("Last used", lambda item: _moment(item.used)),
        *([("Of a bundle", lambda item: what.get(item.name, "-")[:SHORT])] if what else []),
    ]


def _plain(item: Kept) -> dict[str, Any]:
    """What programs get of a thing in the cache."""
    return {
        "kind": item.sort.value,
        "sha256": item.name if item.entry is not None else "",
        "name": item.name,
        "path": str(item.path),
        "size": item.size,
        "used": item.used,
    }


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
    from medperf_core.site.bundles import BundleStore
    from medperf_core.site.cache import tree_size
    from medperf_core.site.cache_contents import contents

    with session.opened() as site:
        place = site.cache_dir
        found = contents(place)
        columns = _columns(BundleStore(site.home)) if output is Format.TABLE else []
        passing = tree_size(site.cache.root / "temp")
    print_list(found, columns, output, empty="The cache is empty.", whole=(0, 1), data=_plain)
    note(f"The cache is in {place}: {_count(found)}, {readable(sum(item.size for item in found))}.")
    if passing:
        note(f"{readable(passing)} more are on their way in, or were left by killed commands; gc removes those.")


@cache.command()
@pass_session
def verify(session: Session, /) -> None:
    """Hash everything in the cache again and drop what is not what it was."""
    from medperf_core.plugin.events import StepFinished, StepStarted
    from medperf_core.site.cache_verify import verify_all

    with session.opened() as site:
        step = "Verifying the cache"
        site.emit(StepStarted(step))
        done = verify_all(site.home, site.cache_dir, _progress(site, step))
        site.emit(StepFinished(step, readable(done.size)))
    if done.unknown:
        note(f"{done.unknown} cannot be checked here; whoever made them checks them before each use.")
    if done.dropped:
        names = ", ".join(f"{item.sort} {item.name}" for item in done.dropped)
        raise VerificationError(
            f"{len(done.dropped)} of {len(done.dropped) + done.intact} entries of the cache were not what they were "
            f"and were dropped: {names}.",
            hint="They are fetched or made again when they are needed; look for what changed them. Files that a "
            "bundle brought come back by loading it again.",
        )
    note(f"All {done.intact} entries are intact." if done.intact != 1 else "The one entry is intact.")


@cache.command()
@click.option("--bundles", is_flag=True, help="Also the files that loaded bundles brought.")
@yes_option
@pass_session
def clear(session: Session, /, bundles: bool, yes: bool) -> None:
    """Free all that no running command uses: fetched files, kept steps, copies of images.

    It is fetched and made again when it is needed. Files that a loaded bundle brought stay unless you say --bundles:
    where there is no connection they come back only by loading the bundle again.
    """
    from medperf_core.cli.prompts import ask_yes_no
    from medperf_core.site.bundles import BundleStore
    from medperf_core.site.cache_gc import collect

    with session.opened() as site:
        store = BundleStore(site.home)
        if bundles and not yes and (count := len(store.files())):
            brought = "1 file that a bundle brought" if count == 1 else f"{count} files that bundles brought"
            if not ask_yes_no(f"Free {brought} too? Without a connection you need the bundle to have them again."):
                raise CancelledError("Nothing was freed.")
        done = collect(site.home, keep=-1, pinned=frozenset if bundles else store.files)
    note(f"Freed {readable(sum(item.size for item in done.freed))}, {_count(done.freed)}.")
    _note_what_stays(done)


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
        store = BundleStore(site.home)
        done = collect(site.home, older_than=older_than, keep=left, dry_run=dry_run, pinned=store.files)
        columns = _columns(store) if output is Format.TABLE else []
    print_list(done.freed, columns, output, empty="Nothing is to be freed.", whole=(0, 1))
    size = readable(sum(item.size for item in done.freed))
    if dry_run:
        note(f"Would free {size}, {_count(done.freed)}; {readable(done.left)} would be left.")
    elif not done.freed:
        note(f"{readable(done.left)} are in the cache.")
    else:
        note(f"Freed {size}, {_count(done.freed)}; {readable(done.left)} are left.")
    if dry_run and done.rests:
        note(f"Would remove {readable(done.rests)} that interrupted commands left.")
    _note_what_stays(done, dry_run=dry_run)
    note(_ENGINES)


def _note_what_stays(done: Freed, *, dry_run: bool = False) -> None:
    if done.rests and not dry_run:
        note(f"Removed {readable(done.rests)} that interrupted commands left.")
    if done.busy:
        note(f"{readable(done.busy)} stay because running commands may use them.")
    if done.pinned:
        note(f"{readable(done.pinned)} stay because bundles brought them; see: medperf bundle ls")


@cache.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--lost", is_flag=True, help="The disk of the cache is gone for good: begin with an empty one.")
@pass_session
def move(session: Session, /, folder: Path, lost: bool) -> None:
    """Put the cache into FOLDER, on another disk for instance, in a folder of its own: medperf-cache.

    It is copied, read back, switched to in one step, and removed from where it was. Kept steps, which hold prepared
    data, are not taken along; they are run again when they are needed. To move it back, name the folder cache in the
    home folder.
    """
    from medperf_core.site.cache_move import move_cache

    if not str(folder).strip():
        raise UsageError("The folder has no name.")
    with session.opened() as site:
        kinds = site.plugins.descriptors()
        told = _Steps(site, f"Copying the cache to {folder}", "Reading it back")
        moved = move_cache(site.home, folder, lost=lost, backends=[kind.name for kind in kinds], on_bytes=told.on_bytes)
        told.finish()
    if lost:
        note(f"A new, empty cache is now in {moved.new}.")
        return
    note(f"The cache is now in {moved.new}: {moved.files} files, {readable(moved.size)}, read back and compared.")
    if moved.steps:
        kept = "1 kept step was" if moved.steps == 1 else f"{moved.steps} kept steps were"
        note(
            f"{kept} removed and not taken along, because of the prepared data in them; they are run again when needed."
        )
    if moved.rest:
        note(f"{moved.old} is still there: it holds files that are not the cache's, or that could not be removed.")


class _Steps:
    """Shows two steps, one after the other, each from its first byte on."""

    def __init__(self, site: Site, *names: str) -> None:
        self._site, self._names, self._begun = site, names, 0

    def on_bytes(self, second: bool, done: int, total: int) -> None:
        from medperf_core.plugin.events import Progress, StepStarted

        self._site.cancel.raise_if_cancelled()
        if self._begun <= second:
            self.finish()
            self._begun = second + 1
            self._site.emit(StepStarted(self._names[second]))
        self._site.emit(Progress(self._names[second], done, total))

    def finish(self) -> None:
        from medperf_core.plugin.events import StepFinished

        if self._begun:
            self._site.emit(StepFinished(self._names[self._begun - 1]))


def _progress(site: Site, what: str) -> Callable[[int, int], None]:
    from medperf_core.plugin.events import Progress

    def on_bytes(done: int, total: int) -> None:
        site.cancel.raise_if_cancelled()
        site.emit(Progress(what, done, total))

    return on_bytes


def _count(found: Sequence[Kept]) -> str:
    return "1 entry" if len(found) == 1 else f"{len(found)} entries"

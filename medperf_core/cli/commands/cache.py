"""``medperf cache``: the local store of fetched files and of kept steps."""

from __future__ import annotations

import shutil
import time

import click

from medperf_core.cli.output import Format, note, print_list
from medperf_core.cli.params import format_option
from medperf_core.cli.session import Session, pass_session
from medperf_core.errors import VerificationError
from medperf_core.site.cache import CacheEntry

COLUMNS = (
    ("Kind", lambda item: item.kind.value),
    ("SHA-256", lambda item: item.sha256),
    ("Bytes", lambda item: item.size),
    ("Last used", lambda item: time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(item.used))),
)


@click.group()
def cache() -> None:
    """See, check and free what is kept of fetched files."""


@cache.command()
@format_option
@pass_session
def ls(session: Session, /, output: Format) -> None:
    """List what is in the cache, the longest unused first."""
    with session.opened() as site:
        found = site.cache.entries()
    print_list(found, COLUMNS, output, empty="The cache is empty.", whole=(0, 1))


@cache.command()
@pass_session
def verify(session: Session, /) -> None:
    """Hash everything in the cache again and drop what is not what it was."""
    with session.opened() as site:
        count = len(site.cache.entries())
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
        shutil.rmtree(site.home.cache_dir / "steps", ignore_errors=True)
    note(f"Freed {freed} bytes of fetched files, and all kept steps.")

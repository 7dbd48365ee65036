"""``medperf bundle``: benchmarks for sites that have no connection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from medperf_core.cli.output import Column, Format, next_step, note, print_list
from medperf_core.cli.params import UID, format_option, output_path, run_options, yes_option
from medperf_core.cli.session import Session, pass_session
from medperf_core.plugin.isolation import UNSIGNED
from medperf_core.site.bundle_index import BundleIndex
from medperf_core.site.bundle_trust import trusted
from medperf_core.site.bundles import SHORT, BundleStore, DamagedBundle, LoadedBundle
from medperf_core.site.sizes import readable

ENTRIES = (("What", lambda item: item.what), ("Size", lambda item: readable(item.size)))
LOADED: tuple[Column[LoadedBundle | DamagedBundle], ...] = (
    ("Bundle", lambda item: item.name[:SHORT]),
    ("Profile", lambda item: item.profile),
    ("Benchmark", lambda item: _of(item, lambda index: index.benchmark)),
    ("Name", lambda item: _of(item, _name)),
    ("Size", lambda item: _of(item, lambda index: readable(index.size))),
    ("Made", lambda item: _of(item, lambda index: index.created_at)),
    ("Platforms", lambda item: _of(item, lambda index: ", ".join(index.platforms))),
    ("Maker", lambda item: _of(item, lambda index: index.maker or "not signed", damaged="damaged")),
)


@click.group()
def bundle() -> None:
    """Carry a benchmark to a site without internet, in one signed file."""


@bundle.command()
@click.option("--benchmark", "-b", type=UID, required=True, help="UID of the benchmark.")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    callback=output_path,
    help="The file to write; it must not be there yet.",
)
@click.option("--platforms", metavar="NAME,NAME", help="Runners that it has images for; the profile's if not given.")
@click.option(
    "--model", "-m", "models", type=UID, multiple=True, help="UID of a further model's container (repeatable)."
)
@click.option("--unsigned", is_flag=True, help="Do not sign it; sites load it only if they allow that.")
@yes_option
@run_options
@pass_session
def create(
    session: Session,
    /,
    benchmark: int,
    output: Path,
    platforms: str | None,
    models: tuple[int, ...],
    unsigned: bool,
    yes: bool,
) -> None:
    """Put all that is needed to run a benchmark's containers into one file.

    An interrupted command goes on when it is given again. Where it is loaded, it takes the place of an older bundle of
    yours for the same benchmark: name all further models each time.
    """
    from medperf_core.journeys.bundle import create_bundle

    names = [name.strip() for name in (platforms or "").split(",") if name.strip()]
    with session.opened(yes=yes) as site:
        made = create_bundle(
            site, benchmark=benchmark, output=output, platforms=names, models=models, unsigned=unsigned
        )
    _show(made.index)
    note(f"Wrote {made.path}: benchmark {benchmark}, {_files(made.index)}.")
    if made.index.maker:
        note(f"Signed by {made.index.maker}. Tell this fingerprint to the sites on another way than the file itself.")
    else:
        note(f"It is not signed: sites need --allow {UNSIGNED} to load it and, each time, to use it.")


@bundle.command()
@click.argument("file", type=click.Path(path_type=Path))
@run_options
@pass_session
def load(session: Session, /, file: Path) -> None:
    """Check a bundle and take it in, for the profile in use, in place of an older one of its maker and benchmark.

    An interrupted command goes on when it is given again.
    """
    from medperf_core.journeys.bundle import load_bundle

    with session.opened() as site:
        loaded = load_bundle(site, file)
    _show(loaded.index)
    note(
        f"Loaded benchmark {loaded.index.benchmark} for the profile {loaded.profile}: {_files(loaded.index)}, "
        f"{f'signed by {loaded.index.maker}' if loaded.index.maker else 'not signed'}."
    )
    waived = "" if loaded.index.maker else f" --allow {UNSIGNED}"
    next_step(f"medperf test run --offline --benchmark {loaded.index.benchmark}{waived}")


@bundle.command()
@format_option
@pass_session
def ls(session: Session, /, output: Format) -> None:
    """List the bundles that were loaded, of all profiles, and say which the profile in use does not use, and why."""
    with session.opened() as site:
        store = BundleStore(site.home)
        found: list[LoadedBundle | DamagedBundle] = [*store.list(), *store.damaged()]
        print_list(found, LOADED, output, empty="No bundle was loaded yet.", whole=(0,))
        for sentence in trusted(store, site.profile_name, site.profile, site.effective.waivers).left_out:
            note(sentence)


@bundle.command()
@click.argument("name")
@pass_session
def remove(session: Session, /, name: str) -> None:
    """Forget a bundle of the profile in use; its files are no longer kept from `medperf cache gc`."""
    with session.opened() as site:
        gone = BundleStore(site.home).remove(site.profile_name, name)
    what = f" of benchmark {gone.index.benchmark}" if isinstance(gone, LoadedBundle) else ", which was damaged"
    note(
        f"Forgot the bundle {gone.name[:SHORT]}{what}. Its files are freed by medperf cache gc when they were not used "
        "for 30 days, or for those of --older-than DAYS."
    )


def _show(index: BundleIndex) -> None:
    entries = sorted(index.entries, key=lambda entry: entry.what)  # in the file they are in the order of their SHA-256
    print_list(entries, ENTRIES, Format.TABLE, empty="It has no files.")


def _files(index: BundleIndex) -> str:
    return f"{len(index.entries)} files, {readable(index.size)}"


def _of(item: LoadedBundle | DamagedBundle, value: Callable[[BundleIndex], Any], *, damaged: str = "-") -> Any:
    return value(item.index) if isinstance(item, LoadedBundle) else damaged


def _name(index: BundleIndex) -> str:
    return next(each.name for each in index.benchmarks if each.id == index.benchmark)

"""``medperf bundle``: benchmarks for sites that have no connection."""

from __future__ import annotations

from pathlib import Path

import click

from medperf_core.cli.output import Format, next_step, note, print_list
from medperf_core.cli.params import UID, format_option, output_path, run_options, yes_option
from medperf_core.cli.session import Session, pass_session
from medperf_core.site.bundle_index import BundleIndex
from medperf_core.site.bundles import SHORT, BundleStore

ENTRIES = (("What", lambda item: item.what), ("Bytes", lambda item: item.size))
LOADED = (
    ("Bundle", lambda item: item.name[:SHORT]),
    ("Profile", lambda item: item.profile),
    ("Benchmark", lambda item: item.index.benchmark),
    ("Made", lambda item: item.index.created_at),
    ("Platforms", lambda item: ", ".join(item.index.platforms)),
    ("Maker", lambda item: item.index.maker or "not signed"),
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

    An interrupted command goes on when it is given again.
    """
    from medperf_core.journeys.bundle import create_bundle

    names = [name.strip() for name in (platforms or "").split(",") if name.strip()]
    with session.opened(yes=yes) as site:
        made = create_bundle(
            site, benchmark=benchmark, output=output, platforms=names, models=models, unsigned=unsigned
        )
    if made.kept:
        note(f"{made.kept} bytes were there from an interrupted run.")
    _show(made.index)
    note(f"Wrote {made.path}: benchmark {benchmark}, {len(made.index.entries)} files of {made.index.size} bytes.")
    if made.index.maker:
        note(f"Signed by {made.index.maker}. Tell this fingerprint to the sites on another way than the file itself.")


@bundle.command()
@click.argument("file", type=click.Path(path_type=Path))
@run_options
@pass_session
def load(session: Session, /, file: Path) -> None:
    """Check a bundle and take it in, for the profile in use.

    An interrupted command goes on when it is given again.
    """
    from medperf_core.journeys.bundle import load_bundle

    with session.opened() as site:
        loaded = load_bundle(site, file)
    _show(loaded.index)
    note(f"Loaded benchmark {loaded.index.benchmark} for the profile {loaded.profile}.")
    next_step(f"medperf test run --offline --benchmark {loaded.index.benchmark}")


@bundle.command()
@format_option
@pass_session
def ls(session: Session, /, output: Format) -> None:
    """List the bundles that were loaded, of all profiles."""
    with session.opened() as site:
        found = BundleStore(site.home).list()
    print_list(found, LOADED, output, empty="No bundle was loaded yet.", whole=(0,))


@bundle.command()
@click.argument("name")
@pass_session
def remove(session: Session, /, name: str) -> None:
    """Forget a bundle of the profile in use; its files are freed by the next `medperf cache gc`."""
    with session.opened() as site:
        gone = BundleStore(site.home).remove(site.profile_name, name)
    note(f"Forgot the bundle {gone.name[:SHORT]} of benchmark {gone.index.benchmark}.")


def _show(index: BundleIndex) -> None:
    print_list(index.entries, ENTRIES, Format.TABLE, empty="It has no files.")

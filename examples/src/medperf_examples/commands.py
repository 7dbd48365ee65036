"""``medperf tutorial start|clean``. Read at every ``medperf --help``, so that the work is imported when it is done."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from medperf_examples.tutorial import Started

FOLDER = "medperf_tutorial"
PLATFORMS = ("process", "docker", "singularity")


@click.group()
def tutorial() -> None:
    """Try everything on a small benchmark of your own."""


@tutorial.command()
@click.argument("role", type=click.Choice(["model"]))
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Folder to make.")
@click.option(
    "--platform", type=click.Choice(PLATFORMS), default=None, help="What runs the containers.  [default: process]"
)
@click.option(
    "--base-image",
    default=None,
    metavar="IMAGE",
    help="Image to build the examples on; made from this machine's Python if not given.",
)
@click.pass_context
def start(context: click.Context, role: str, folder: Path, platform: str | None, base_image: str | None) -> None:
    """Set up a benchmark that a ROLE can take part in ("model": a model owner)."""
    from medperf_core.site.folders import check_place

    from medperf_examples.tutorial import start_tutorial

    check_place(folder, f"--folder {folder}")
    options = context.find_root().params
    started = start_tutorial(
        folder.absolute(),
        platform=platform or options.get("platform") or os.environ.get("MEDPERF_PLATFORM") or "process",
        base_image=base_image,
        home=options.get("home"),
        tell=lambda line: click.echo(line, err=True),
    )
    click.echo(_welcome(started))


@tutorial.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=FOLDER,
    show_default=True,
    help="Folder that `tutorial start` made.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.pass_context
def clean(context: click.Context, folder: Path, yes: bool) -> None:
    """Remove the tutorial's folder, profiles and logins."""
    from medperf_examples.tutorial import clean_tutorial

    if not yes and folder.exists() and sys.stdin.isatty():
        click.confirm(f"Remove {folder} with all that you changed in it?", abort=True)
    removed = clean_tutorial(folder.absolute(), home=context.find_root().params.get("home"))
    click.echo(f"Removed {folder} and the profiles {', '.join(removed)}.")


def _welcome(started: Started) -> str:
    model = _short(started.model)
    mlcube = shlex.quote(f"{model}/mlcube")
    manifest = shlex.quote(f"{model}/mlcube/mlcube.yaml")
    hosted = shlex.quote((started.model / "mlcube" / "deploy").as_uri())
    clean = "medperf tutorial clean"
    if started.folder != Path(FOLDER).absolute():
        clean += f" --folder {shlex.quote(_short(started.folder))}"
    return f"""\
You are the model owner (profile {started.profiles[0]}) of a benchmark that is ready. Your model is in {model}.
Try, in this order:

  medperf benchmark ls
  medperf test run --benchmark 1 --model {manifest}
  medperf mlcube package {mlcube}
  medperf mlcube submit --name my-modelref-cube --mlcube-file {hosted}/mlcube.yaml \\
      --parameters-file {hosted}/parameters.yaml --additional-file {hosted}/additional_files.tar.gz
  medperf mlcube ls --mine
  medperf mlcube associate --benchmark 1 --model_uid 4
  medperf association ls
  medperf profile activate {started.profiles[1]}
  medperf association approve --benchmark 1 --mlcube 4

When you are done: {clean}"""


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)

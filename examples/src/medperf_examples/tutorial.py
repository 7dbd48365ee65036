"""Set up and take down the tutorial: a benchmark on an embedded server, with one profile for each role.

Everything is made the way its owners would make it: packaged, submitted, tested and approved through the public
journeys and the public server client.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from medperf_core import ApproveAll, Site
from medperf_core.entities import Benchmark, IdentityKind, ImageIdentity, Model, State, User
from medperf_core.errors import AuthenticationError, ConfigurationError, NotFoundError, UsageError
from medperf_core.journeys.account import login, logout
from medperf_core.journeys.compatibility import run_test
from medperf_core.journeys.package import package
from medperf_core.journeys.submit import HostedFiles, submit_container
from medperf_core.plugin.descriptors import RunnerPlugin
from medperf_core.plugin.digest import file_digest, source_digest
from medperf_core.site.folders import make_folder

from medperf_examples import wdbc

MARK = ".tutorial.json"
DATABASE = "server.db"
MODEL = "model_mlp"
OWNER, COMMITTEE, ADMIN = "tutorial-model-owner", "tutorial-committee", "tutorial-admin"
USERS = {
    OWNER: User(username="modelowner", email="modelowner@example.org", first_name="Mo", last_name="Owner"),
    COMMITTEE: User(username="committee", email="committee@example.org", first_name="Co", last_name="Mittee"),
}
SUBMITTED = ("data_preparator", "model_logreg", "metrics")
"""In the order of their UIDs, 1 to 3."""
BASE_IMAGE = "localhost/medperf-examples/python-base:local"


@attrs.frozen
class Started:
    """A tutorial that is ready: its folder, the model owner's model, and its profiles, the active one first."""

    folder: Path
    model: Path
    profiles: tuple[str, ...]


def start_tutorial(
    folder: Path, *, platform: str, base_image: str | None, home: Path | None, tell: Callable[[str], None]
) -> Started:
    """Make the folder, the server, the profiles and the benchmark; on failure nothing of it stays.

    Args:
        folder: absolute path of a folder that does not exist yet.
        platform: the runner that the profiles use.
        base_image: for container engines, the image to build on; None makes one from this machine's Python.
        home: home folder of the site; None for the usual one.
        tell: is given a line for each step.

    Raises:
        UsageError: the folder or one of the profiles exists.
    """
    with Site.open(home) as site:
        taken = sorted(set(site.profiles.names()) & {OWNER, COMMITTEE, ADMIN})
        if folder.exists() or taken:
            what = str(folder) if folder.exists() else f"the profile {taken[0]}"
            raise UsageError(
                f"A tutorial is there already: {what} exists.", hint="Remove it first with: medperf tutorial clean"
            )
        previous = site.profiles.active_name
    make_folder(folder, f"The folder {folder}")
    (folder / MARK).write_text(json.dumps({"previous_profile": previous}), encoding="utf-8")
    try:
        _copy_examples(folder)
        _make_profiles(folder, platform, base_image, home, tell)
        _add_users(home)
        _make_benchmark(folder, home, tell)
    except BaseException:
        clean_tutorial(folder, home=home)
        raise
    return Started(folder, folder / MODEL, (OWNER, COMMITTEE, ADMIN))


def _copy_examples(folder: Path) -> None:
    for name, source in wdbc.containers().items():
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "MODEL").symlink_to(MODEL)  # the name that the documentation's commands use
    wdbc.write_demo_dataset(folder / "demo_dataset.tar.gz")


def _make_profiles(
    folder: Path, platform: str, base_image: str | None, home: Path | None, tell: Callable[[str], None]
) -> None:
    changes: dict[str, Any] = {"server": f"embedded:{folder / DATABASE}", "platform": platform}
    if platform == "process":
        # the process runner isolates nothing: it is allowed for the tutorial's own programs and for no other
        sources = [
            ImageIdentity(IdentityKind.SOURCE, source_digest(folder / name / "project")) for name in wdbc.containers()
        ]
        changes["allow"] = tuple(f"no-isolation={source}" for source in sources)
    backends = {}
    if platform == "docker":
        backends["docker"] = {"build_args": [f"BASE_IMAGE={base_image or _imported_base(tell)}"]}
    if platform == "singularity" or (platform == "docker" and _has_runner(home, "singularity")):
        backends["singularity"] = {"build_args": [f"BASE_IMAGE={base_image or _saved_base(folder, tell)}"]}
    if backends:
        changes["backends"] = backends
    with Site.open(home) as site:
        for name in (OWNER, COMMITTEE, ADMIN):
            site.profiles.create(name, **changes)
        site.profiles.activate(OWNER)


def _has_runner(home: Path | None, name: str) -> bool:
    with Site.open(home) as site:
        return any(item.name == name for item in site.plugins.all(RunnerPlugin))


def _imported_base(tell: Callable[[str], None]) -> str:
    """The base image in Docker's store; made if it is not there."""
    from medperf_examples import base_image

    tell("Making a base image from this machine's Python")
    if not base_image.exists(BASE_IMAGE):
        base_image.import_image(BASE_IMAGE)
    return BASE_IMAGE


def _saved_base(folder: Path, tell: Callable[[str], None]) -> str:
    """The base image as a file, for engines without a store."""
    from medperf_examples import base_image

    tell("Writing a base image from this machine's Python")
    path = folder / "python-base.tar"
    base_image.save(path)
    return str(path)


def _add_users(home: Path | None) -> None:
    from medperf_server.embedded import EmbeddedClient

    with Site.open(home, profile=ADMIN) as site:
        login(site, "admin", _nobody_to_ask)
        if not isinstance(site.server, EmbeddedClient):
            raise ConfigurationError("The tutorial needs an embedded server.")
        for user in USERS.values():
            site.server.add_user(user)
    for profile, user in USERS.items():
        with Site.open(home, profile=profile) as site:
            login(site, user.username, _nobody_to_ask)


def _nobody_to_ask(question: str, secret: bool, answers: tuple[str, ...]) -> str:
    raise AuthenticationError(f"Nobody is there to answer: {question}")


def _make_benchmark(folder: Path, home: Path | None, tell: Callable[[str], None]) -> None:
    approver = ApproveAll("tutorial")
    with Site.open(home, profile=COMMITTEE, approver=approver) as site:
        for name in SUBMITTED:
            tell(f"Packaging and submitting {name}")
            made = package(site, folder / name / "mlcube")
            hosted = {item.name: (made.folder / item.name).as_uri() for item in made.files}
            submit_container(
                site,
                f"wdbc-{name.replace('_', '-')}",
                HostedFiles(
                    mlcube=hosted["mlcube.yaml"],
                    parameters=hosted.get("parameters.yaml"),
                    additional=hosted.get("additional_files.tar.gz"),
                    project=hosted.get("project.tar.gz"),
                ),
            )
        demo = folder / "demo_dataset.tar.gz"
        tell("Testing the reference model on the demo dataset")
        report = run_test(
            site,
            data_preparator="1",
            model="2",
            evaluator="3",
            demo_dataset_url=demo.as_uri(),
            demo_dataset_hash=file_digest(demo),
        )
        reference = next(iter(site.server.list(Model, mine=True)))
        site.gate.create(
            Benchmark(
                name="wdbc",
                description="Is a breast mass malignant? 30 measurements of cell nuclei per patient",
                demo_dataset_tarball_url=demo.as_uri(),
                demo_dataset_tarball_hash=file_digest(demo),
                demo_dataset_generated_uid=report.prepared_hash,
                data_preparation_mlcube=1,
                reference_model=reference.uid,
                data_evaluator_mlcube=3,
                state=State.OPERATION,
                metadata={"results": report.results},
            )
        )
    with Site.open(home, profile=ADMIN, approver=approver) as site:
        site.gate.update(Benchmark, 1, {"approval_status": "APPROVED"})


def clean_tutorial(folder: Path, *, home: Path | None) -> list[str]:
    """Remove a tutorial's folder, profiles and logins, and activate the profile that was active before.

    Returns:
        The names of the profiles that were removed.

    Raises:
        NotFoundError: there is no tutorial in this folder; if it is elsewhere, that is said.
    """
    server = f"embedded:{folder / DATABASE}"
    mark = folder / MARK
    with Site.open(home, profile="default") as site:
        there = {name: site.profiles.get(name).server for name in (OWNER, COMMITTEE, ADMIN)
                 if name in site.profiles.names()}  # fmt: skip
    profiles = [name for name, address in there.items() if address == server]
    if not mark.is_file() and not profiles:
        elsewhere = next((Path(address.removeprefix("embedded:")).parent for address in there.values()), None)
        hint = f"There is one in {elsewhere}: add --folder {elsewhere}" if elsewhere else None
        raise NotFoundError(f"There is no tutorial in {folder}.", hint=hint)
    previous = json.loads(mark.read_text(encoding="utf-8"))["previous_profile"] if mark.is_file() else "default"
    for name in profiles:
        with Site.open(home, profile=name) as site:
            if (folder / DATABASE).exists():
                logout(site)
            else:
                site.credentials.delete(site.login_name(server))
    with Site.open(home, profile="default") as site:
        if site.profiles.active_name in profiles:
            site.profiles.activate(previous if previous in site.profiles.names() else "default")
        for name in profiles:
            site.profiles.delete(name)
    if mark.is_file():
        shutil.rmtree(folder)
    return profiles

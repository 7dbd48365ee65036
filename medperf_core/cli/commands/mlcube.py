"""``medperf mlcube`` (also ``medperf container``): containers by their UIDs and paths."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import quote

import click

from medperf_core.cli.associations import say_asked
from medperf_core.cli.output import Format, next_step, note
from medperf_core.cli.params import (
    UID,
    UID_OR_PATH,
    container_path,
    format_option,
    mine_option,
    output_path,
    run_options,
    yes_option,
)
from medperf_core.cli.prompts import ask_yes_no
from medperf_core.cli.registry import list_entities, view_entity
from medperf_core.cli.results import print_results
from medperf_core.cli.session import Session, pass_session
from medperf_core.cli.text import printable
from medperf_core.cli.waivers import say_waived
from medperf_core.entities import Container, Model, Role, State
from medperf_core.entities.roles import role_of
from medperf_core.errors import InvalidEntityError, TransferError, UsageError
from medperf_core.journeys.associate import associate as ask
from medperf_core.journeys.containers import read_local
from medperf_core.journeys.create import create_model
from medperf_core.journeys.package import Package, check_container
from medperf_core.journeys.package import package as write_package
from medperf_core.journeys.publish import Hosted, Publication
from medperf_core.journeys.publish import publish as publish_container
from medperf_core.journeys.run_task import run_container_task
from medperf_core.journeys.submit import HostedFiles, submit_container
from medperf_core.site.archive import pack_tree
from medperf_core.site.folders import make_folder
from medperf_core.site.site import Site
from medperf_core.site.sizes import readable

ROLES = [role.value for role in Role]
ARCHIVES = (".tar.gz", ".tgz")
HOSTED = (
    ("mlcube", "-m", "the manifest (mlcube.yaml or container_config.yaml)", ""),
    ("parameters", "-p", "the parameters file", ""),
    ("additional", "-a", "the archive of additional files", ""),
    ("image", "-i", "the image archive or SIF", ""),
    (
        "project",
        None,
        "the archive of the project",
        " Without it, project.tar.gz is looked for beside a manifest with a process: section.",
    ),
)


def _role(container: Container) -> str | None:
    role = role_of(container.tasks)
    return role.value if role else None


COLUMNS = (
    ("UID", lambda item: item.id),
    ("Name", lambda item: item.name),
    ("Role", _role),
    ("State", lambda item: item.state.value),
    ("Owner", lambda item: item.owner),
    ("Registered", lambda item: item.created_at),
)


@click.group()
def mlcube() -> None:
    """Package, try, submit and see containers (MLCubes)."""


@mlcube.command()
@mine_option
@format_option
@run_options
@pass_session
def ls(session: Session, /, mine: bool, output: Format) -> None:
    """List registered containers."""
    list_entities(session, Container, COLUMNS, output, mine=mine, empty="There are no MLCubes to see.")


@mlcube.command()
@click.argument("uid", type=UID)
@format_option
@run_options
@pass_session
def view(session: Session, /, uid: int, output: Format) -> None:
    """Show everything about a registered container."""
    view_entity(session, Container, uid, output)


@mlcube.command()
@click.argument("path", required=False, type=click.Path(path_type=Path), callback=container_path)
@click.option(
    "--mlcube",
    "named",
    type=click.Path(path_type=Path),
    callback=container_path,
    help="The same as the argument PATH.",
)
@click.option("--type", "role", type=click.Choice(ROLES), help="What the container must be able to do.")
@click.option("--mlcube-types", metavar="TYPE[,TYPE]", help="The same as --type; several are all checked.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    callback=output_path,
    help="Folder to write, instead of deploy/ beside the manifest; or a .tar.gz to write instead.",
)
@yes_option
@pass_session
def package(
    session: Session,
    /,
    path: Path | None,
    named: Path | None,
    role: str | None,
    mlcube_types: str | None,
    output: Path | None,
    yes: bool,
) -> None:
    """Check a container and write all that its owner has to host."""
    chosen = path or named
    if chosen is None or (path and named):
        raise UsageError("Name one container.", hint="Write: medperf mlcube package PATH")
    roles = _roles(role, mlcube_types)
    archive = output if output and output.name.endswith(ARCHIVES) else None
    if archive is not None:
        _check_archive(archive, yes)
    with session.opened() as site:
        if len(roles) > 1:
            _check_roles(site, chosen, roles)
        folder = site.temp / "package" if archive else output
        done = write_package(site, chosen, roles[0] if roles else None, folder)
        if archive is not None:
            _pack(done.folder, archive)
    _say_packaged(done, archive)


def _check_archive(archive: Path, yes: bool) -> None:
    if archive.is_dir():
        raise UsageError(f"{archive} is a folder.", hint="Give another --output.")
    if archive.exists() and not yes and not ask_yes_no(f"{archive} exists already. Replace it?"):
        raise UsageError(f"{archive} was left as it is.", hint="Give another --output.")


def _check_roles(site: Site, path: Path, roles: list[Role]) -> None:
    local = read_local(site, path)
    problems = [problem for role in roles for problem in check_container(local, role)]
    if problems:
        raise InvalidEntityError(f"{local.path} cannot be packaged:", problems=list(dict.fromkeys(problems)))


def _pack(folder: Path, archive: Path) -> None:
    make_folder(archive.parent, f"The folder of {archive}")
    try:
        pack_tree(folder, archive)
    except TransferError as error:
        raise UsageError(error.message, hint=error.hint) from error


def _roles(role: str | None, types: str | None) -> list[Role]:
    words = [word.strip().replace("_", "-") for word in (types or "").split(",") if word.strip()]
    for word in words:
        if word not in ROLES:
            raise UsageError(f"{word!r} is not a type of container.", hint=f"Known types: {', '.join(ROLES)}.")
    found = [Role(word) for word in ([role] if role else []) + words]
    return list(dict.fromkeys(found))


def _say_packaged(done: Package, archive: Path | None) -> None:
    note(f"Packaged the {done.role.value} into {archive or done.folder}:")
    for item in done.files:
        click.echo(f"{item.sha256}  {item.size:>12}  {item.name}")
    note("Host these files where the sites that will run them can fetch them.")
    if done.image_file is not None:
        note(f"Host the image too, which is not copied: {done.image_file}")
    hosted = [item.name for item in done.files] + ([done.image_file.name] if done.image_file else [])
    if any(quote(name) != name for name in hosted):
        note("In s3: and gs: addresses, write names as they are: %20 and the like are not understood, nor are blanks.")
    names = {item.name for item in done.files}
    options = [f"--mlcube-file {shlex.quote(f'URL/{quote(done.files[0].name)}')}"]
    options += [
        f"--{option}-file URL/{name}"
        for option, name in (
            ("parameters", "parameters.yaml"),
            ("additional", "additional_files.tar.gz"),
            ("project", "project.tar.gz"),
        )
        if name in names
    ]
    if done.image_file is not None:
        options.append(f"--image-file {shlex.quote(f'URL/{quote(done.image_file.name)}')}")
    next_step(f"medperf mlcube submit --name NAME {' '.join(options)}")


def _hosted_options(command: click.decorators.FC) -> click.decorators.FC:
    for name, short, what, otherwise in reversed(HOSTED):
        command = click.option(f"--{name}-hash", metavar="SHA256", help=f"SHA-256 of {what}.")(command)
        words = [f"--{name}-file", short] if short else [f"--{name}-file"]
        command = click.option(
            *words, f"{name}_file", metavar="URL", required=name == "mlcube", help=f"Where {what} is hosted.{otherwise}"
        )(command)
    return command


@mlcube.command()
@click.option("--name", "-n", required=True, help="Name of the container, unique on the server.")
@_hosted_options
@click.option("--development", is_flag=True, help="Keep it editable instead of final.")
@yes_option
@run_options
@pass_session
def submit(session: Session, /, name: str, development: bool, yes: bool, **given: str | None) -> None:
    """Fetch and verify a container's hosted files, and register it.

    It is registered for OPERATION, which is final, unless --development is given.
    """
    files = HostedFiles(
        mlcube=given.pop("mlcube_file") or "", **{word.removesuffix("_file"): value for word, value in given.items()}
    )
    if not development:
        note("OPERATION is final: what is registered cannot be changed afterwards. (--development keeps it editable.)")
    with session.opened(yes=yes) as site:
        done = submit_container(site, name, files, development=development)
    _say_registered(done)


def _say_registered(done: Container | Model) -> None:
    container = done if isinstance(done, Container) else done.container
    if container is None:
        return
    final = "; it is final" if container.state is State.OPERATION else "; it can still be edited"
    note(f"Registered {container.name} as MLCube {container.id} ({container.state.value}{final}).")
    if container.state is State.DEVELOPMENT and role_of(container.tasks) is Role.MODEL:
        next_step(f"medperf test run --benchmark BENCHMARK --model {container.id}")
    elif role_of(container.tasks) is Role.MODEL:
        next_step(f"medperf mlcube associate --benchmark BENCHMARK --model_uid {container.id}")
    else:
        next_step(f"medperf mlcube view {container.id}")


@mlcube.command()
@click.argument("path", type=click.Path(path_type=Path), callback=container_path)
@click.option(
    "--to", required=True, metavar="URL", help="Where to: gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, file:///FOLDER."
)
@click.option("--name", "-n", help="Name of the container, unique on the server; by default its manifest's.")
@click.option("--type", "role", type=click.Choice(ROLES), help="What the container must be able to do.")
@click.option("--image", is_flag=True, help="Upload the container image too.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only say what would be uploaded and registered. The container is packed and its image prepared for that "
    "(with --image, or if it is of a registry), and the store and the server are asked what they have.",
)
@click.option("--development", is_flag=True, help="Keep it editable instead of final.")
@yes_option
@run_options
@pass_session
def publish(
    session: Session,
    /,
    path: Path,
    to: str,
    name: str | None,
    role: str | None,
    image: bool,
    dry_run: bool,
    development: bool,
    yes: bool,
) -> None:
    """Package a container, upload its files, read them back, and register it.

    Before it asks, it looks in the store whether the files are there. These questions hold the prefix, the names and
    the SHA-256 of the files, and nothing of their content.
    """
    if not development and not dry_run:
        note("OPERATION is final: what is registered cannot be changed afterwards. (--development keeps it editable.)")
    with session.opened(yes=yes) as site:
        done = publish_container(
            site,
            path,
            to,
            name=name,
            role=Role(role) if role else None,
            image=image,
            dry_run=dry_run,
            development=development,
            show=_say_hosted,
        )
    if done.registered is None:
        missing = [each.size for each in done.files if not each.there]
        files = "1 file" if len(missing) == 1 else f"{len(missing)} files"
        _say_planned(done)
        note(f"To upload: {files}, {readable(sum(missing))}. Nothing was uploaded or registered (--dry-run).")
        return
    for each in done.files:
        click.echo(f"{each.sha256}  {each.size:>12}  {each.url}")
    _say_registered(done.registered)


def _say_planned(done: Publication) -> None:
    draft, manifest = done.draft, done.files[0]
    final = "final" if draft.state is State.OPERATION else "it can be edited"
    note(f"To register: the {done.role.value} {draft.name} ({draft.state.value}: {final}).")
    if manifest.public:
        note(f"Its addresses: if everybody can read the files, https, such as {manifest.public}; else those above.")
    else:
        note("Its addresses: those above.")


def _say_hosted(files: tuple[Hosted, ...]) -> None:
    for each in files:
        note(f"{each.name}, {readable(each.size)}, from {each.made_from}")
        if each.holds:
            count, names = each.holds["files"], each.holds["names"]
            more = f" and {count - len(names)} more" if count > len(names) else ""
            note(f"  holds {count} {'file' if count == 1 else 'files'}: {', '.join(map(printable, names))}{more}")
        note(f"  {'is there already' if each.there else 'to upload'}: {each.target}")


@mlcube.command()
@click.option("--benchmark", "-b", type=UID, required=True, help="UID of the benchmark.")
@click.option("--model-uid", "-m", "--mlcube", "uid", type=UID, required=True, help="UID of the model's container.")
@click.option("--no-cache", is_flag=True, help="Run every step of the test anew.")
@yes_option
@run_options
@pass_session
def associate(session: Session, /, benchmark: int, uid: int, no_cache: bool, yes: bool) -> None:
    """Test a model on a benchmark's demo data and ask that it takes part."""
    with session.opened(yes=yes) as site:
        made = ask(site, benchmark=benchmark, container=uid, fresh=no_cache, show=print_results)
    say_asked(made)


@mlcube.group()
def create() -> None:
    """Make a new container to start from."""


@create.command()
@click.option("--benchmark", "-b", type=UID, required=True, help="UID of the benchmark that it is for.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), callback=output_path, help="Folder to make; by default NAME."
)
@click.option("--name", "-n", default="my-model", show_default=True, help="Name of the model.")
@run_options
@pass_session
def model(session: Session, /, benchmark: int, output: Path | None, name: str) -> None:
    """Make a model for a benchmark's data that passes the test as created."""
    if output is None and Path(name).name != name:
        raise UsageError(f"{name!r} cannot be the name of a folder.", hint="Give --output too.")
    with session.opened() as site:
        folder = create_model(site, benchmark=benchmark, output=output or Path(name), name=name)
    note(f"Made {folder}. Its files say what to change.")
    next_step(f"medperf test run --benchmark {benchmark} --model {shlex.quote(str(folder / 'mlcube'))}")


@mlcube.command()
@click.option("--task", "-t", required=True, help="Name of the task, such as infer.")
@click.option(
    "--container",
    "--mlcube",
    "-m",
    "container",
    type=UID_OR_PATH,
    required=True,
    help="Path of the container, or its UID.",
)
@click.option(
    "--input",
    "-i",
    "inputs",
    multiple=True,
    metavar="LABEL=PATH",
    help="What the task reads (repeatable), such as data_path=FOLDER.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    required=True,
    callback=output_path,
    help="Folder for what it writes.",
)
@run_options
@pass_session
def run(session: Session, /, task: str, container: str, inputs: tuple[str, ...], output: Path) -> None:
    """Run one task of a container here; shows the exact command of the engine first."""
    given = _inputs(inputs)
    with session.opened(tasks=(task,)) as site:
        done = run_container_task(
            site,
            container,
            task,
            given,
            output.absolute(),
            show_command=lambda words: note(f"$ {shlex.join(words)}"),
        )
    note(f"The task {task} ended well after {done.seconds:.1f} s ({done.engine}). Its outputs are in {output}.")
    say_waived(done.waivers)


def _inputs(words: tuple[str, ...]) -> dict[str, Path]:
    inputs: dict[str, Path] = {}
    for word in words:
        label, equals, path = word.partition("=")
        if not equals or not label or not path:
            raise UsageError(f"--input {word!r} is not of the form LABEL=PATH.")
        if label in inputs:
            raise UsageError(f"--input {label}= is given twice.", hint="Give each input once.")
        inputs[label] = Path(path)
    return inputs

"""Make a new model for a benchmark's data, from the benchmark's own reference model, so that it works as created."""

from __future__ import annotations

import shlex
import shutil
import uuid
from pathlib import Path

import yaml

from medperf_core.entities import Benchmark, Container, Model
from medperf_core.errors import InvalidEntityError, UsageError
from medperf_core.journeys.containers import packager_for, write_parameters
from medperf_core.plugin.digest import IGNORED_IN_SOURCES, tree_entries
from medperf_core.plugin.manifest import manifest_from_data
from medperf_core.site.folders import make_folder
from medperf_core.site.site import Site

HEADER = """\
# Made by `medperf mlcube create model --benchmark {benchmark}` from the benchmark's reference model
# ({reference}), so that it reads that benchmark's data and passes the compatibility test as it is.
# Make it yours: the code is in ../project, its weights are in workspace/additional_files, and
# workspace/parameters.yaml has its parameters. Then: medperf test run --benchmark {benchmark} --model {folder}
"""


def create_model(site: Site, *, benchmark: int, output: Path, name: str) -> Path:
    """Write a new model's folder: ``mlcube/`` (manifest and workspace) and ``project/``.

    Args:
        benchmark: the benchmark that it is for.
        output: the folder to make; it must not exist yet.
        name: of the new model.

    Raises:
        UsageError: the folder exists.
        InvalidEntityError: the reference model does not publish its project, so there is nothing to start from.
    """
    if output.exists():
        raise UsageError(f"{output} exists already.", hint="Give another --output.")
    entity = site.server.get(Benchmark, benchmark)
    model = site.server.get(Model, entity.reference_model)
    container = model.container
    if container is None or "project" not in container.sources():
        raise InvalidEntityError(
            f"The reference model of benchmark {benchmark} does not publish its project, so that no template can be "
            "made from it.",
            hint="Ask the benchmark's owner for an example.",
        )
    staged = output.parent / f".{output.name}-{uuid.uuid4().hex[:8]}"
    make_folder(staged, f"The folder {output}")
    try:
        _write(
            site,
            container,
            staged,
            name,
            HEADER.format(benchmark=benchmark, reference=container.name, folder=shlex.quote(str(output / "mlcube"))),
        )
        staged.rename(output)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return output


def _write(site: Site, container: Container, folder: Path, name: str, header: str) -> None:
    project_source = container.sources()["project"]
    project = site.cache.tree(
        site.fetch(project_source["url"], origin=site.server_origin, sha256=project_source["sha256"]).sha256
    )
    manifest = manifest_from_data(container.container_config, name=f"container {container.uid}", project=project)
    packager = packager_for(site, manifest)
    workspace = folder / "mlcube" / "workspace"
    workspace.mkdir(parents=True)
    text = yaml.safe_dump(packager.template(manifest.data, name), sort_keys=False, allow_unicode=True)
    (folder / "mlcube" / packager.file_names[0]).write_text(header + text, encoding="utf-8")
    _copy(project, folder / "project")
    parameters = write_parameters(site, container.parameters_config)
    if parameters is not None:
        shutil.copyfile(parameters, workspace / "parameters.yaml")
    if container.additional_files_tarball_url:
        fetched = site.fetch(
            container.additional_files_tarball_url,
            origin=site.server_origin,
            sha256=container.additional_files_tarball_hash,
        )
        _copy(site.cache.tree(fetched.sha256), workspace / "additional_files")


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for entry in tree_entries(source, IGNORED_IN_SOURCES):
        place = target / entry.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if entry.link is not None:
            place.symlink_to(entry.link)
        else:
            shutil.copyfile(entry.absolute, place)
            place.chmod(0o755 if entry.executable else 0o644)

"""Images built from a source tree: its files on a base image, put together without running anything of either.

What was built is remembered in the site's cache by the tree's digest, the build arguments and the base image.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import ExecutionError
from medperf_core.plugin import BackendContext, PreparedImage, StepFinished, StepStarted
from medperf_core.plugin.build_context import build_arguments, build_file, private_copy
from medperf_core.plugin.digest import file_digest, source_digest
from medperf_core.plugin.identities import incomparable, require
from medperf_singularity import convert, sif, store
from medperf_singularity.assemble import copy_into, make_folder, remove_special
from medperf_singularity.config import ImageConfig
from medperf_singularity.engine import Engine, plugin_cache
from medperf_singularity.images.sandbox import refuse_links
from medperf_singularity.recipe import Recipe, read_recipe

if TYPE_CHECKING:
    from medperf_singularity.plugin import SingularitySettings

_ARCHIVES = (".tar", ".tar.gz", ".tgz")


def prepare(
    engine: Engine,
    settings: SingularitySettings,
    context: BackendContext,
    source: ImageSource,
    expected: Sequence[ImageIdentity],
) -> PreparedImage:
    """Verify a source tree and build it, unless just this was built here before; see ``Runner.prepare``.

    Only the tree's own digest is compared: two builds of one tree are never the same file.

    Raises:
        ExecutionError: its Dockerfile has steps that are not done here; says which.
    """
    if source.dockerfile is None:
        raise ExecutionError(
            f"The source tree {source.location} has no build file.",
            hint="Use the process runner, or give it a Dockerfile.",
        )
    wanted = [identity for identity in expected if identity.kind is IdentityKind.SOURCE]
    if expected and not wanted:
        raise incomparable(source, expected, (IdentityKind.SOURCE,))
    arguments = build_arguments(settings.build_args)
    with private_copy(Path(source.location), context) as copy:
        identity = ImageIdentity(IdentityKind.SOURCE, source_digest(copy))
        require(source, wanted, (identity,))
        dockerfile = build_file(copy, source.dockerfile)
        recipe = read_recipe((copy / dockerfile).read_text(encoding="utf-8", errors="replace"), arguments)
        base = _base(engine, settings, context, recipe.base, arguments)
        parts = [identity.digest, dockerfile, arguments, sorted(map(str, base.identities))]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        record = plugin_cache(context) / "builds" / f"{key}.json"
        entry = _built_before(context, record, identity)
        if entry is None:
            entry = _build(engine, context, source, copy, recipe, base, identity)
            record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = record.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps({"sif": f"sha256:{entry.record.sha256}"}), encoding="utf-8")
            part.replace(record)
    return entry.prepared((identity, ImageIdentity(IdentityKind.SIF, f"sha256:{entry.record.sha256}")), source)


def _base(
    engine: Engine, settings: SingularitySettings, context: BackendContext, name: str, arguments: Mapping[str, str]
) -> PreparedImage:
    """The base image: a reference, or the absolute path of a SIF, a sandbox or an image archive.

    Raises:
        ExecutionError: it is a path that the build file made up: its author is a stranger, who would have ``FROM /``
            bring all files of this machine into a container.
    """
    from medperf_singularity.prepare import prepare as prepare_image

    kind = SourceKind.REGISTRY
    if name.startswith("/"):
        if name not in arguments.values():
            raise ExecutionError(
                f"The build file starts from {name[:100]}, a place on this machine that nobody here named.",
                hint="Only a site may name one: have the build file say `FROM ${BASE_IMAGE}`, and give "
                "--singularity-build-args BASE_IMAGE=PATH.",
            )
        kind = SourceKind.ARCHIVE if name.endswith(_ARCHIVES) else SourceKind.SIF
    return prepare_image(engine, settings, context, ImageSource(kind, name), ())


def _built_before(context: BackendContext, record: Path, source: ImageIdentity) -> store.Entry | None:
    """The image that the record names, if it is still here, whole, and of this tree."""
    try:
        built = ImageIdentity(IdentityKind.SIF, json.loads(record.read_text(encoding="utf-8"))["sif"])
    except Exception:  # whatever is in the file: it is built again
        return None
    return store.find(context, lambda known: {built, source} <= known.identities)


def _build(
    engine: Engine,
    context: BackendContext,
    source: ImageSource,
    copy: Path,
    recipe: Recipe,
    base: PreparedImage,
    identity: ImageIdentity,
) -> store.Entry:
    what = f"Building {source.name or source.location}"
    context.emit(StepStarted(what))
    config = recipe.configure(store.describe(context, base))
    with store.new_folder(context.temp_dir) as work:
        _unpack(engine, context, work, Path(base.reference))
        remove_special(work / "rootfs")
        for step in recipe.copies:
            copy_into(copy, work / "rootfs", step)
        make_folder(work / "rootfs", config.working_dir)
        refuse_links(work / "rootfs")
        made = work / "new.sif"
        size = sum(path.lstat().st_size for path in (work / "rootfs").rglob("*"))
        convert.build(engine, context, work, "rootfs", made, str(source.name or source.location), size)
        found = ImageIdentity(IdentityKind.SIF, f"sha256:{file_digest(made)}")

        def make(target: Path) -> ImageConfig:
            made.replace(target)
            return config

        entry = store.keep(context, found, make, known=(identity,))
    context.emit(StepFinished(what))
    return entry


def _unpack(engine: Engine, context: BackendContext, work: Path, image: Path) -> None:
    """Unpack a verified SIF into ``work/rootfs``; not by the engine, which would write into it and follow its links."""
    (work / "base.sif").symlink_to(image)
    command = ["unsquashfs", "-no-progress", "-no-xattrs", "-offset", str(sif.file_system(image)), "-dest", "rootfs"]
    doing = f"unpack the base image {image.parent.name[:24]}"
    convert.helper([*command, "base.sif"], engine, context, work, doing, image.stat().st_size)

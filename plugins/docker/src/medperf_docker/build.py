"""Images built from a source tree: from a private copy that was hashed, so that what was verified is what is built.

What was built is remembered in the site's cache, not looked up by label: a label can be forged by an image from
elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import ExecutionError
from medperf_core.plugin import BackendContext, PreparedImage, StepFinished, StepStarted
from medperf_core.plugin.build_context import build_arguments, build_file, private_copy
from medperf_core.plugin.digest import source_digest
from medperf_core.plugin.dockerfile import instructions, substitute
from medperf_core.plugin.identities import incomparable, require
from medperf_core.plugin.image_reference import Reference
from medperf_core.plugin.processes import new_marker
from medperf_core.plugin.tasklog import TaskLogWriter
from medperf_docker import images, registry
from medperf_docker.connect import Client, Connection, engine_error
from medperf_docker.daemon import Daemon
from medperf_docker.stream import messages

if TYPE_CHECKING:
    from medperf_docker.plugin import DockerSettings

LABEL = "medperf.source"
OWN_NAMES = "localhost/"
"""Begins names that no registry serves: an image is given the name of its manifest only if it is such a one."""


def prepare(
    connection: Connection,
    daemon: Daemon,
    context: BackendContext,
    settings: DockerSettings,
    source: ImageSource,
    expected: Sequence[ImageIdentity],
) -> PreparedImage:
    """Verify a source tree and build it, unless just this was built here before; see ``Runner.prepare``.

    Only the tree's own digest is compared: two builds of one tree are never the same image.
    """
    if source.dockerfile is None:
        raise ExecutionError(
            f"The source tree {source.location} has no build file.",
            hint="Use the process runner, or give it a Dockerfile.",
        )
    if daemon.podman and settings.build_network == "none":
        raise ExecutionError(
            f"{source.location} is not built: Podman's Docker interface keeps no build off the network.",
            hint="Give it a built image, or if you trust its build file, set --docker-build-network=host.",
        )
    wanted = [identity for identity in expected if identity.kind is IdentityKind.SOURCE]
    if expected and not wanted:
        raise incomparable(source, expected, (IdentityKind.SOURCE,))
    args = build_arguments(settings.build_args)
    with private_copy(Path(source.location), context) as copy:
        identity = ImageIdentity(IdentityKind.SOURCE, source_digest(copy))
        require(source, wanted, (identity,))
        dockerfile = build_file(copy, source.dockerfile)
        bases = tuple(base_images((copy / dockerfile).read_text(errors="replace"), args))
        plan = _Build(dockerfile, args, settings.build_network, bases, identity)
        record = _record(context, daemon, plan)
        with connection.client(f"look up the image of {source.location}") as client:
            image = _built_before(client, record, identity)
        if image is None:
            image = _build(connection, context, source, copy, plan)
            record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with connection.client("look up the base images") as client:
                found = {
                    base: images.image_id(each)
                    for base in bases
                    if "$" not in base and (each := images.inspect(client, base))
                }
            _write(record, {"image": images.image_id(image), "bases": found})
        return images.prepared(image, images.identities(image, daemon) | {identity}, source)


@attrs.frozen
class _Build:
    dockerfile: str
    args: Mapping[str, str]
    network: str
    bases: tuple[str, ...]
    source: ImageIdentity


def base_images(dockerfile: str, args: Mapping[str, str]) -> Iterator[str]:
    """The images that a build file starts from or copies from, its own stages and ``scratch`` left out.

    A name that cannot be told without building keeps its ``$``.
    """
    values: dict[str, str] = {}
    stages: set[str] = set()
    for step in instructions(dockerfile):
        words = step.rest.split()
        if step.name == "ARG" and not stages and words:
            name, _, default = words[0].partition("=")
            values[name] = args.get(name, default.strip("\"'"))
        elif step.name == "FROM":
            image = substitute(words[0], values) if words else ""
            if image and image.lower() not in stages | {"scratch"}:
                yield image
            stages.add(words[2].lower() if len(words) == 3 else "")
        elif step.name == "COPY":
            names = [word.removeprefix("--from=") for word in step.options if word.startswith("--from=")]
            yield from (name for name in names if name.lower() not in stages and not name.isdigit())


def _record(context: BackendContext, daemon: Daemon, plan: _Build) -> Path:
    parts = [plan.source.digest, plan.dockerfile, dict(plan.args), plan.network, daemon.id]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return context.cache_dir / "docker" / "builds" / f"{key}.json"


def _built_before(client: Client, record: Path, source: ImageIdentity) -> Mapping[str, Any] | None:
    """The image that the record names, if it is still here and its base images have not been replaced since."""
    try:
        data = json.loads(record.read_text())
        image = images.inspect(client, str(data["image"]))
        bases = [(images.inspect(client, str(name)), digest) for name, digest in data["bases"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if image is None or ((image.get("Config") or {}).get("Labels") or {}).get(LABEL) != source.digest:
        return None
    same = all(base is None or images.image_id(base) == digest for base, digest in bases)
    return image if same else None


def _write(path: Path, data: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(data))
    temporary.replace(path)


def _build(
    connection: Connection, context: BackendContext, source: ImageSource, copy: Path, plan: _Build
) -> Mapping[str, Any]:
    doing, what = f"build the image of {source.location}", f"Building {source.name or source.location}"
    labels = {LABEL: plan.source.digest, "medperf.build-args": json.dumps(dict(plan.args), sort_keys=True)}
    labels["medperf.bases"] = json.dumps(_fetch_bases(connection, context, plan.bases), sort_keys=True)
    tag = f"{images.KEPT}:{images.UNFINISHED}{new_marker()}"  # cannot be guessed by what is built
    context.emit(StepStarted(what))
    stream = messages(
        connection,
        context,
        doing,
        lambda client, _: client.build(
            path=str(copy),
            dockerfile=plan.dockerfile,
            tag=tag,
            rm=True,
            forcerm=True,
            decode=True,
            network_mode=plan.network,
            buildargs=dict(plan.args),
            labels=labels,
            timeout=None,
        ),
    )
    error = ""
    with TaskLogWriter(copy.parent / "build.log", "build", context.emit) as log:
        for message in stream:
            log.feed(str(message.get("stream", "")).encode())
            error = error or str(message.get("error", ""))
    if error:
        raise _failed(doing, error, log.tail, plan.network)
    with connection.client(doing) as client:
        image = images.inspect(client, tag)
        if image is None:
            raise engine_error(doing, "it ended without an image")
        identifier = images.image_id(image)
        images.keep(client, {"Id": identifier})
        client.remove_image(tag)
        if source.name and source.name.startswith(OWN_NAMES):
            name, _, version = source.name.rpartition(":")
            client.tag(identifier, name or source.name, version if name else None)
        image = images.inspect(client, identifier)
    if image is None:
        raise engine_error(doing, "the image was removed meanwhile")
    context.emit(StepFinished(what))
    return image


def _failed(doing: str, words: str, tail: Sequence[str], network: str) -> ExecutionError:
    error = engine_error(doing, words)
    hint = error.hint
    if network == "none":
        hint = "Builds have no network here: if a RUN step needs one and you trust it, set --docker-build-network."
    lines = "".join(f"\n    {line}" for line in tail[-10:])
    return ExecutionError(f"{error.message} Its last lines:{lines}\n" if lines else error.message, hint=hint)


def _fetch_bases(connection: Connection, context: BackendContext, bases: Sequence[str]) -> dict[str, str]:
    """The IDs of the base images by name; one that is not here is pulled, so that it is known and told of."""
    found = {}
    for base in bases:
        if "$" in base:
            context.require_network(f"building from the image {base}")
            continue
        with connection.client(f"look up the base image {base}") as client:
            image = images.inspect(client, base)
        if image is None:
            reference = Reference.parse(base)
            pulled = registry.pull(connection, context, reference)
            with connection.client(f"look up the base image {base}") as client:
                image = images.inspect(client, pulled)
        if image is not None:
            found[base] = images.image_id(image)
    return found

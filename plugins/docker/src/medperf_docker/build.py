"""Images built from a source tree: from a private copy that was hashed, so that what was verified is what is built.

What was built is remembered in the site's cache, not looked up by label: a label can be forged by an image from
elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import attrs

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import ConfigurationError, ExecutionError, InvalidEntityError, NotFoundError
from medperf_core.plugin import BackendContext, PreparedImage, StepFinished, StepStarted
from medperf_core.plugin.digest import IGNORED_IN_SOURCES, source_digest, tree_entries
from medperf_core.plugin.processes import new_marker
from medperf_core.plugin.tasklog import TaskLogWriter
from medperf_docker import images, registry
from medperf_docker.connect import Client, Connection, engine_error
from medperf_docker.daemon import Daemon
from medperf_docker.stream import messages

if TYPE_CHECKING:
    from medperf_docker.plugin import DockerSettings

LABEL = "medperf.source"
BUILDING = "build-"
"""Begins the tag of an image that is being built; the marker of the program that builds it follows."""
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
        raise images.incomparable(source, expected, (IdentityKind.SOURCE,))
    args = arguments(settings.build_args)
    with private_copy(Path(source.location), context) as copy:
        identity = ImageIdentity(IdentityKind.SOURCE, source_digest(copy))
        images.require(source, wanted, (identity,))
        dockerfile = _dockerfile(copy, source.dockerfile)
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


def arguments(words: Sequence[str]) -> dict[str, str]:
    """Build arguments of the settings by name.

    Raises:
        ConfigurationError: one is not of the form NAME=VALUE.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise ConfigurationError(f"The build argument {word!r} is not of the form NAME=VALUE.")
        found[name] = value
    return found


@contextmanager
def private_copy(root: Path, context: BackendContext) -> Iterator[Path]:
    """A copy of a source tree that nobody else can change; removed afterwards."""
    if not root.is_dir():
        raise NotFoundError(f"The source tree {root} does not exist.")
    context.temp_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="docker-build-", dir=context.temp_dir) as folder:
        copy = Path(folder, "tree")
        copy.mkdir()
        for entry in tree_entries(root, IGNORED_IN_SOURCES):
            context.cancel.raise_if_cancelled()
            target = copy / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if entry.link is not None:
                target.symlink_to(entry.link)
            else:
                shutil.copyfile(entry.absolute, target, follow_symlinks=False)
                target.chmod(0o755 if entry.executable else 0o644)
        yield copy


def _dockerfile(copy: Path, name: str) -> str:
    inside = PurePosixPath(name)
    path = copy / inside
    if inside.is_absolute() or ".." in inside.parts or not path.resolve().is_relative_to(copy.resolve()):
        raise InvalidEntityError(f"The build file {name!r} is not inside its source tree.")
    if not path.is_file():
        raise NotFoundError(
            f"The build file {name!r} is not in its source tree.", hint="Correct its name in the manifest."
        )
    return str(inside)


def base_images(dockerfile: str, args: Mapping[str, str]) -> Iterator[str]:
    """The images that a build file starts from or copies from, its own stages and ``scratch`` left out.

    A name that cannot be told without building keeps its ``$``.
    """
    values: dict[str, str] = {}
    stages: set[str] = set()
    for line in re.sub(r"\\[ \t]*\r?\n", " ", dockerfile).splitlines():
        words = line.split()
        if not words:
            continue
        if words[0].upper() == "ARG" and not stages and len(words) > 1:
            name, _, default = words[1].partition("=")
            values[name] = args.get(name, default.strip("\"'"))
        elif words[0].upper() == "FROM":
            rest = [word for word in words[1:] if not word.startswith("--")]
            image = _substitute(rest[0], values) if rest else ""
            if image and image.lower() not in stages | {"scratch"}:
                yield image
            stages.add(rest[2].lower() if len(rest) == 3 else "")
        elif words[0].upper() == "COPY":
            names = [word.removeprefix("--from=") for word in words[1:] if word.startswith("--from=")]
            yield from (name for name in names if name.lower() not in stages and not name.isdigit())


def _substitute(text: str, values: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name, default = found[1] or found[3], found[2]
        return values.get(name) or default or ("" if name in values else found[0])

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}|\$(\w+)", value, text)


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
    tag = f"{images.KEPT}:{BUILDING}{new_marker()}"  # cannot be guessed by what is built
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
            reference = registry.Reference.parse(base)
            pulled = registry.pull(connection, context, reference)
            with connection.client(f"look up the base image {base}") as client:
                image = images.inspect(client, pulled)
        if image is not None:
            found[base] = images.image_id(image)
    return found

"""Images of registries: found in the store or in the local Docker daemon, else fetched by digest and converted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import ExecutionError, VerificationError
from medperf_core.plugin import BackendContext, PreparedImage, StepFinished, StepStarted
from medperf_core.plugin.identities import DIGEST, agrees, incomparable, mismatch, require
from medperf_core.plugin.image_archive import progress
from medperf_core.plugin.image_reference import Reference
from medperf_singularity import convert, store
from medperf_singularity.config import ImageConfig
from medperf_singularity.engine import Engine, architecture
from medperf_singularity.files import require_room
from medperf_singularity.images import daemon
from medperf_singularity.images.client import Registry
from medperf_singularity.layout import Layout, verify

if TYPE_CHECKING:
    from medperf_singularity.plugin import SingularitySettings

COMPARABLE = frozenset({IdentityKind.CONFIG, IdentityKind.MANIFEST})
_LAYERS_LIMIT = 1000
_INDEX_LIMIT = 1000


@attrs.frozen
class _Manifest:
    """A manifest that was checked.

    Attributes:
        identities: its own digest, the index's if it was found by one, and the configuration's.
        config: the configuration's bytes.
        layers: digest and size of each layer.
    """

    identities: frozenset[ImageIdentity]
    config: bytes
    layers: tuple[tuple[str, int], ...]

    @property
    def identity(self) -> ImageIdentity:
        """The configuration's: the same image in another registry or in an archive has it too."""
        return next(each for each in self.identities if each.kind is IdentityKind.CONFIG)


def prepare(
    engine: Engine,
    settings: SingularitySettings,
    context: BackendContext,
    source: ImageSource,
    expected: Sequence[ImageIdentity],
) -> PreparedImage:
    """Find the image here, or fetch it; see ``Runner.prepare``.

    With recorded identities, what has them is used without any connection to the registry. Without, an image that the
    local Docker daemon has under this name is taken, as ``docker run`` does, else the registry is asked; only a site
    that works offline takes what this name meant when it was last asked for.
    """
    reference = Reference.parse(source.location)
    if expected and not COMPARABLE & {identity.kind for identity in expected}:
        raise incomparable(source, expected, COMPARABLE)
    entry = _in_store(context, reference, expected)
    if entry is not None:
        return entry.prepared(_of_registries(entry.record), source)
    for name in daemon.wanted(expected, reference):
        local = daemon.find(settings.docker_host, name)
        if local is not None and (not expected or _may_be(local, expected)):
            entry, known = daemon.keep(engine, context, local, reference, source)
            if not expected or agrees(expected, known):
                return entry.prepared(known, source)
    return _from_registry(engine, context, source, reference, expected)


def _in_store(context: BackendContext, reference: Reference, expected: Sequence[ImageIdentity]) -> store.Entry | None:
    if expected:
        return store.find(context, lambda record: agrees(expected, _of_registries(record)))
    if reference.digest:
        wanted = ImageIdentity(IdentityKind.MANIFEST, reference.digest)
        return store.find(context, lambda record: wanted in record.identities)
    if context.offline:
        return store.find(context, lambda record: reference.local in record.names)
    return None


def _of_registries(record: store.Record) -> frozenset[ImageIdentity]:
    return frozenset(each for each in record.identities if each.kind in COMPARABLE)


def _may_be(local: daemon.Local, expected: Sequence[ImageIdentity]) -> bool:
    """Whether it is worth exporting: some recorded digest is among what the daemon says of the image."""
    told = {local.id} | {each.digest for each in local.manifests}
    return any(each.digest in told for each in expected)


def _from_registry(
    engine: Engine,
    context: BackendContext,
    source: ImageSource,
    reference: Reference,
    expected: Sequence[ImageIdentity],
) -> PreparedImage:
    context.require_network(f"pulling the image {source.location}")
    manifests = sorted(identity.digest for identity in expected if identity.kind is IdentityKind.MANIFEST)
    if reference.digest and manifests and reference.digest not in manifests:
        raise mismatch(source, expected, [ImageIdentity(IdentityKind.MANIFEST, reference.digest)])
    registry = Registry(context, reference)
    wanted = reference.digest or (manifests[0] if manifests else None)
    found = _ask(registry, source, reference, wanted, expected)
    require(source, expected, found.identities)
    config = ImageConfig.read_oci(found.config, str(source))

    def make(sif: Path) -> ImageConfig:
        with store.new_folder(context.temp_dir) as work:
            unpacked = _fetch(registry, context, found, work, source).unpacked
            convert.build(engine, context, work, "oci:layout", sif, str(source), unpacked)
        return config

    names = [reference.local] if wanted is None else []
    if names:  # a tag that moved leads to its new image only
        store.forget_name(context, reference.local, except_for=found.identity)
    entry = store.keep(context, found.identity, make, found.identities, names)
    return entry.prepared(found.identities, source)


def _ask(
    registry: Registry,
    source: ImageSource,
    reference: Reference,
    digest: str | None,
    expected: Sequence[ImageIdentity],
) -> _Manifest:
    try:
        data, told = registry.manifest(digest or reference.tag or "latest")
    except ExecutionError:
        if digest is None or reference.digest or not reference.tag:
            raise
        found = registry.manifest(reference.tag)[1]  # what is there instead is worth saying
        raise mismatch(source, expected, [ImageIdentity(IdentityKind.MANIFEST, found)]) from None
    identities = {ImageIdentity(IdentityKind.MANIFEST, told)}
    document = _read(data, source)
    if "manifests" in document:
        data, inner = registry.manifest(_chosen(document, source))
        identities.add(ImageIdentity(IdentityKind.MANIFEST, inner))
        document = _read(data, source)
    try:
        config_digest, layers = document["config"]["digest"], document["layers"]
        if not isinstance(layers, list) or len(layers) > _LAYERS_LIMIT:
            raise ValueError("layers is no list, or a very long one")
        checked = tuple(_layer(layer) for layer in layers)
        if not isinstance(config_digest, str) or not DIGEST.fullmatch(config_digest):
            raise ValueError("config has no digest")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(f"The manifest of the image {source} cannot be used: {error!r}.") from error
    config = registry.document(config_digest)
    identities.add(ImageIdentity(IdentityKind.CONFIG, config_digest))
    return _Manifest(frozenset(identities), config, checked)


def _read(data: bytes, source: ImageSource) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"The manifest of the image {source} is not JSON: {error}.") from error
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise VerificationError(
            f"The manifest of the image {source} is of an unknown form.",
            hint="Its owner must push it with a Docker newer than 1.10.",
        )
    return document


def _layer(layer: Any) -> tuple[str, int]:
    digest, size, kind = layer["digest"], layer["size"], str(layer.get("mediaType", ""))
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ValueError("a layer has no digest")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError("a layer has no size")
    if "tar" not in kind or "encrypted" in kind or layer.get("urls"):
        raise ValueError(f"a layer is {kind[:80]!r}, which is no tar of this registry")
    return digest, size


def _chosen(index: dict[str, Any], source: ImageSource) -> str:
    """The digest of the manifest for this machine."""
    try:
        entries = index["manifests"][:_INDEX_LIMIT]
        fitting = [
            entry["digest"]
            for entry in entries
            if (platform := entry.get("platform") or {}).get("os", "linux") == "linux"
            and platform.get("architecture", architecture()) == architecture()
        ]
        there = {str((entry.get("platform") or {}).get("architecture", "?"))[:20] for entry in entries}
    except (KeyError, TypeError, AttributeError) as error:
        raise VerificationError(f"The index of the image {source} cannot be used: {error!r}.") from error
    if not fitting:
        raise ExecutionError(
            f"The image {source} is not there for this machine ({architecture()}), only for "
            f"{', '.join(sorted(there)) or 'none'}.",
            hint="Ask its owner for one for this kind of processor.",
        )
    if not isinstance(fitting[0], str) or not DIGEST.fullmatch(fitting[0]):
        raise VerificationError(f"The index of the image {source} names something that is not a digest.")
    return fitting[0]


def _fetch(registry: Registry, context: BackendContext, manifest: _Manifest, work: Path, source: ImageSource) -> Layout:
    total = sum(dict(manifest.layers).values())
    what = f"Pulling {source.location}"
    require_room(f"pull the image {source.location}", {work: total})
    context.emit(StepStarted(what))
    told = progress(what, total, context)
    layout = Layout.create(work, str(source))
    for digest, size in dict(manifest.layers).items():
        layout.layer(digest, _told(registry.blob(digest, size), told))
    layers = [layout.blobs[digest] for digest, _ in manifest.layers]
    verify(manifest.config, layers, str(source))
    layout.finish(manifest.config, layers)
    context.emit(StepFinished(what))
    return layout


def _told(pieces: Iterator[bytes], told: Callable[[int], None]) -> Iterator[bytes]:
    for piece in pieces:
        told(len(piece))
        yield piece

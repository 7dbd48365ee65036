"""Images of registries: pulled by digest, so that no local tag is moved and what was compared is what came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import ExecutionError, VerificationError
from medperf_core.plugin import BackendContext, PreparedImage, StepFinished, StepStarted
from medperf_core.plugin.identities import DIGEST, agrees, incomparable, mismatch, require
from medperf_core.plugin.image_reference import Reference
from medperf_docker import images
from medperf_docker.archive import exported_config
from medperf_docker.connect import Connection, engine_error
from medperf_docker.daemon import Daemon
from medperf_docker.stream import LayerProgress, checked, messages

COMPARABLE = frozenset({IdentityKind.CONFIG, IdentityKind.MANIFEST})


def prepare(
    connection: Connection,
    daemon: Daemon,
    context: BackendContext,
    source: ImageSource,
    expected: Sequence[ImageIdentity],
) -> PreparedImage:
    """Find the image here, or pull it; see ``Runner.prepare``.

    With recorded identities a local image that has them is used without any connection. Without, an image that is
    here under this name is taken, as ``docker run`` does.
    """
    reference = Reference.parse(source.location)
    if expected and not COMPARABLE & {identity.kind for identity in expected}:
        raise incomparable(source, expected, COMPARABLE)
    doing = f"prepare the image {source.location}"
    with connection.client(doing, patient=True) as client:
        for image in _local(client, reference, expected):
            known = _known(client, image, daemon, expected)
            if not expected or agrees(expected, known):
                return images.prepared(image, known, source)
    manifests = sorted(identity.digest for identity in expected if identity.kind is IdentityKind.MANIFEST)
    if reference.digest and manifests and reference.digest not in manifests:
        raise mismatch(source, expected, [ImageIdentity(IdentityKind.MANIFEST, reference.digest)])
    digest = reference.digest or (manifests[0] if manifests else None)
    pulled = _pull_recorded(connection, context, source, reference, digest, expected)
    with connection.client(doing, patient=True) as client:
        came = images.inspect(client, pulled)
        if came is None:
            raise ExecutionError(f"Docker said that it pulled {pulled}, but does not have it.")
        known = _known(client, came, daemon, expected)
        try:
            require(source, expected, known)
        except VerificationError:
            client.remove_image(pulled)
            raise
        images.keep(client, came)
        return images.prepared(came, known, source)


def _local(client: Any, reference: Reference, expected: Sequence[ImageIdentity]) -> Iterator[Mapping[str, Any]]:
    names = [identity.digest for identity in expected if identity.kind is IdentityKind.CONFIG]
    digests = [identity.digest for identity in expected if identity.kind is IdentityKind.MANIFEST]
    names += [reference.at(digest) for digest in digests]
    for name in (*names, reference.local):
        image = images.inspect(client, name)
        if image is not None:
            yield image
    for digest in digests:
        image = images.by_manifest(client, digest)
        if image is not None:
            yield image


def _known(
    client: Any, image: Mapping[str, Any], daemon: Daemon, expected: Sequence[ImageIdentity]
) -> set[ImageIdentity]:
    known = images.identities(image, daemon)
    kinds = {identity.kind for identity in expected}
    if IdentityKind.CONFIG in kinds and not kinds & {identity.kind for identity in known}:
        known.add(ImageIdentity(IdentityKind.CONFIG, exported_config(client, images.image_id(image))))
    return known


def _pull_recorded(
    connection: Connection,
    context: BackendContext,
    source: ImageSource,
    reference: Reference,
    digest: str | None,
    expected: Sequence[ImageIdentity],
) -> str:
    """Pull by digest where one is known or can be learned; the name of what came."""
    context.require_network(f"pulling the image {source.location}")
    try:
        if digest is None:
            digest = resolve(connection, reference)
        return pull(connection, context, reference, digest)
    except ExecutionError as error:
        found = resolve(connection, reference) if digest and reference.tag and "manifest" in str(error) else None
        if found is None or found == digest:
            raise
        raise mismatch(source, expected, [ImageIdentity(IdentityKind.MANIFEST, found)]) from error


def resolve(connection: Connection, reference: Reference) -> str | None:
    """The manifest digest that the registry has for a reference now; None if the engine cannot ask for it."""
    from docker.errors import APIError

    with connection.client(f"look up {reference.local}") as client:
        try:
            answer = client.inspect_distribution(reference.local)
        except APIError as error:
            if error.status_code in (404, 405, 501) and "manifest" not in str(error.explanation):
                return None  # Podman does not have this question
            raise
    digest = str((answer.get("Descriptor") or {}).get("digest", ""))
    return digest if DIGEST.fullmatch(digest) else None


def pull(connection: Connection, context: BackendContext, reference: Reference, digest: str | None = None) -> str:
    """Pull an image; the name under which it is here. A local tag of the same name is left where it was.

    Raises:
        ExecutionError: it could not be pulled.
        OfflineError: this site works offline.
    """
    name = reference.at(digest) if digest else reference.local
    doing, what = f"pull the image {name}", f"Pulling {name}"
    context.require_network(f"pulling the image {name}")
    with connection.client(doing) as client:
        before = None if digest else images.inspect(client, name)
    context.emit(StepStarted(what))
    progress = LayerProgress(what, context.emit)
    tag = digest or reference.tag
    stream = messages(
        connection, context, doing, lambda client, _: client.pull(reference.name, tag=tag, stream=True, decode=True)
    )
    for message in checked(stream, doing):
        progress.take(message)
    if digest is None:
        with connection.client(doing) as client:
            image = images.inspect(client, name)
            if image is None:
                raise engine_error(doing, "it is not there afterwards")
            if before is not None and images.image_id(before) != images.image_id(image):
                client.tag(images.image_id(before), reference.name, reference.tag)
                name = images.keep(client, {"Id": images.image_id(image)})
    context.emit(StepFinished(what))
    return name

"""Images in the daemon's store: finding them, what they verifiably are, and comparing that with what was recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import VerificationError
from medperf_core.plugin import PreparedImage
from medperf_core.plugin.identities import DIGEST
from medperf_docker.connect import Client
from medperf_docker.daemon import Daemon

KEPT = "localhost/medperf"
"""Repository name of the tags that keep images without a name of their own from being pruned; never looked up."""
UNFINISHED = "build-"
"""Begins the tag below ``KEPT`` of an image that is being built or loaded; the marker of the program follows."""


def inspect(client: Client, name: str) -> Mapping[str, Any] | None:
    """The daemon's description of a local image; None if there is none. Opens no connection to a registry."""
    from docker.errors import ImageNotFound, NotFound

    try:
        found: Mapping[str, Any] = client.inspect_image(name)
    except (ImageNotFound, NotFound):
        return None
    return found


def image_id(image: Mapping[str, Any]) -> str:
    """An image's ID as ``sha256:HEX``."""
    text = str(image.get("Id") or image.get("ID") or "")
    text = text if text.startswith("sha256:") else f"sha256:{text}"
    if not DIGEST.fullmatch(text):
        raise VerificationError(f"The engine names an image by {text[:80]!r}, which is not a digest.")
    return text


def identities(image: Mapping[str, Any], daemon: Daemon) -> set[ImageIdentity]:
    """What the store vouches for: the ID, and the digests under which registries know the image."""
    # Podman lists our own name too, with the digest of a manifest that it made itself.
    names = [str(name) for name in image.get("RepoDigests") or () if not str(name).startswith(f"{KEPT}@")]
    digests = [name.rpartition("@")[2] for name in names]
    found = {ImageIdentity(IdentityKind.MANIFEST, digest) for digest in digests if DIGEST.fullmatch(digest)}
    return found | {ImageIdentity(daemon.id_kind, image_id(image))}


def by_manifest(client: Client, digest: str) -> Mapping[str, Any] | None:
    """A local image that some registry knows by this manifest digest."""
    for image in client.images():
        if any(str(name).endswith(f"@{digest}") for name in image.get("RepoDigests") or ()):
            return inspect(client, image_id(image))
    return None


def keep(client: Client, image: Mapping[str, Any]) -> str:
    """Give an image without a tag one of ours, so that ``docker image prune`` leaves it alone; that name, or its ID."""
    identifier = image_id(image)
    if image.get("RepoTags"):
        return identifier
    tag = identifier.removeprefix("sha256:")[:24]
    client.tag(identifier, KEPT, tag)
    return f"{KEPT}:{tag}"


def prepared(image: Mapping[str, Any], known: Iterable[ImageIdentity], source: ImageSource) -> PreparedImage:
    """The image as the core gets it: by ID, with all that it verifiably is."""
    config = image.get("Config") or {}
    command = (*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ()))
    size = image.get("Size")
    return PreparedImage(
        image_id(image),
        tuple(sorted(set(known))),
        source,
        tuple(map(str, command)),
        architecture=str(image.get("Architecture") or "") or None,
        size=size if isinstance(size, int) and size > 0 else None,
    )

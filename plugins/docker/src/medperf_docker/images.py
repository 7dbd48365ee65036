"""Images in the daemon's store: finding them, what they verifiably are, and comparing that with what was recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import VerificationError
from medperf_core.plugin import PreparedImage
from medperf_docker.connect import Client
from medperf_docker.daemon import Daemon

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
KEPT = "localhost/medperf"
"""Repository name of the tags that keep images without a name of their own from being pruned; never looked up."""


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
    digests = [str(name).rpartition("@")[2] for name in image.get("RepoDigests") or ()]
    found = {ImageIdentity(IdentityKind.MANIFEST, digest) for digest in digests if DIGEST.fullmatch(digest)}
    return found | {ImageIdentity(daemon.id_kind, image_id(image))}


def by_manifest(client: Client, digest: str) -> Mapping[str, Any] | None:
    """A local image that some registry knows by this manifest digest."""
    for image in client.images():
        if any(str(name).endswith(f"@{digest}") for name in image.get("RepoDigests") or ()):
            return inspect(client, image_id(image))
    return None


def agrees(expected: Iterable[ImageIdentity], known: Iterable[ImageIdentity]) -> bool:
    """Whether ``known`` satisfies ``expected``: some kind is in both, and each such kind has a digest in common.

    An image may have several digests of one kind (an index and a manifest); any of them will do.
    """
    wanted, have = set(expected), set(known)
    shared = {identity.kind for identity in wanted} & {identity.kind for identity in have}
    return bool(shared) and all(any(identity.kind is kind for identity in wanted & have) for kind in shared)


def require(source: ImageSource, expected: Iterable[ImageIdentity], known: Iterable[ImageIdentity]) -> None:
    """Refuse an image that is not what was recorded.

    Raises:
        VerificationError: it differs, or nothing of it can be compared.
    """
    wanted = set(expected)
    if wanted and not agrees(wanted, known):
        raise mismatch(source, wanted, known)


def mismatch(
    source: ImageSource, expected: Iterable[ImageIdentity], found: Iterable[ImageIdentity]
) -> VerificationError:
    """The error for an image that is not the recorded one."""
    wanted, have = sorted(set(expected)), sorted(set(found))
    if have and not {identity.kind for identity in wanted} & {identity.kind for identity in have}:
        return incomparable(source, wanted, {identity.kind for identity in have})
    text = ", ".join(map(str, have)) or "none of them"
    return VerificationError(
        f"The image {source} is not the recorded one: expected {', '.join(map(str, wanted))}, found {text}.",
        hint="It was changed after it was recorded, or another one was meant; nothing was run.",
    )


def incomparable(
    source: ImageSource, expected: Iterable[ImageIdentity], kinds: Iterable[IdentityKind]
) -> VerificationError:
    """The error for recorded identities that this kind of source does not have."""
    return VerificationError(
        f"The image {source} cannot be verified: recorded is {', '.join(map(str, sorted(expected)))}, but it can only "
        f"be compared by {' or '.join(sorted(kinds))}.",
        hint="Its owner has to record one of these.",
    )


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

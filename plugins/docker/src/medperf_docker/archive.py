"""``docker save`` files: verified, and loaded without their tags.

The daemon checks the layers against the configuration that was verified here. Names in the archive are never believed,
and are taken out of what the daemon gets.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import CancelledError, VerificationError
from medperf_core.plugin import BackendContext, PreparedImage, StepFinished, StepStarted
from medperf_core.plugin.archive_memory import read_archive
from medperf_core.plugin.digest import CHUNK
from medperf_core.plugin.identities import DIGEST, incomparable, require
from medperf_core.plugin.image_archive import (
    DOCUMENT_LIMIT,
    NAMES,
    Header,
    Image,
    Reading,
    choose,
    members,
    progress,
    scan,
)
from medperf_core.plugin.processes import new_marker
from medperf_docker import images
from medperf_docker.connect import Client, Connection
from medperf_docker.daemon import Daemon
from medperf_docker.stream import Stopped, checked, messages

_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class _Chunks(io.RawIOBase):
    """Pieces of any size as a file that can be read once."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        while len(self._rest) < size:
            piece = next(self._chunks, None)
            if piece is None:
                break
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def prepare(
    connection: Connection,
    daemon: Daemon,
    context: BackendContext,
    source: ImageSource,
    expected: Sequence[ImageIdentity],
) -> PreparedImage:
    """Verify a saved image and load it if it is not here yet; see ``Runner.prepare``.

    Compared are the file's SHA-256 and the configuration's digest. Manifest digests are compared only where neither
    is recorded, because saving an image makes a new manifest.
    """
    path = Path(source.location)
    digest, found = read_archive(path, context)
    file_identity = ImageIdentity(IdentityKind.ARCHIVE, f"sha256:{digest}")
    kinds = {identity.kind for identity in expected}
    strong = [identity for identity in expected if identity.kind in (IdentityKind.ARCHIVE, IdentityKind.CONFIG)]
    if expected and not strong and IdentityKind.MANIFEST not in kinds:
        raise incomparable(source, expected, (IdentityKind.ARCHIVE, IdentityKind.CONFIG))
    image = choose(source, found, expected, daemon.architecture)
    known = {file_identity, ImageIdentity(IdentityKind.CONFIG, image.config)}
    manifests = {ImageIdentity(IdentityKind.MANIFEST, each) for each in image.manifests if not image.saved}
    with connection.client(f"look up the image of {path}") as client:
        local = _loaded(client, image)
        if local is not None:
            manifests |= {each for each in images.identities(local, daemon) if each.kind is IdentityKind.MANIFEST}
    require(source, strong or expected, known if strong else known | manifests)
    if local is None:
        local = _load(connection, context, path, image)
    known |= manifests if not strong else images.identities(local, daemon)
    return images.prepared(local, known, source)


def exported_config(client: Client, identifier: str) -> str:
    """The configuration digest of a local image, for stores whose image ID is something else. Reads all of it."""
    found = scan(_Chunks(client.get_image(identifier)), f"export of {identifier}")
    if len(found) != 1:
        raise VerificationError(f"The engine exported {len(found)} images for {identifier}.")
    return found[0].config


def _loaded(client: Client, image: Image) -> Mapping[str, Any] | None:
    found = (images.inspect(client, digest) for digest in (image.config, *reversed(image.manifests)))
    return next((each for each in found if each is not None), None)


def _load(connection: Connection, context: BackendContext, path: Path, image: Image) -> Mapping[str, Any]:
    doing, what = f"load the image archive {path}", f"Loading {path.name}"
    # A name of our own while it is loaded: by it the next run finds and removes what a killed one has loaded.
    tag = f"{images.KEPT}:{images.UNFINISHED}{new_marker()}"
    context.emit(StepStarted(what))

    def data(stopped: Stopped) -> Iterator[bytes]:
        for piece in nameless(path, image, context, what, tag):
            if stopped.is_set():
                raise CancelledError("Loading was given up.")
            yield piece

    stream = messages(connection, context, doing, lambda client, stopped: client.load_image(data(stopped)))
    loaded = "".join(str(message.get("stream", "")) for message in checked(stream, doing))
    with connection.client(doing, patient=True) as client:
        local = _loaded(client, image)
        if local is None:  # a store that names images by a manifest which it made itself
            for word in (tag, *loaded.split()):
                known = word == tag or DIGEST.fullmatch(word)
                if known and images.inspect(client, word) and exported_config(client, word) == image.config:
                    local = images.inspect(client, word)
        if local is None:
            raise VerificationError(
                f"Docker loaded something else from {path} than the image {image.config}.",
                hint="The file was changed meanwhile, or is damaged.",
            )
        names = [name for name in local.get("RepoTags") or () if name != tag]
        images.keep(client, {**local, "RepoTags": names})
        if images.inspect(client, tag):
            client.remove_image(tag)
        local = images.inspect(client, images.image_id(local)) or local
    context.emit(StepFinished(what))
    return local


def nameless(path: Path, image: Image, context: BackendContext, what: str, tag: str | None = None) -> Iterator[bytes]:
    """The archive as the daemon gets it: one image, without any name but ``tag``, so that no other tag is moved."""
    with (
        path.open("rb") as raw,
        tarfile.open(
            fileobj=Reading(raw, progress(what, path.stat().st_size, context)), mode="r|*", tarinfo=Header
        ) as tar,
    ):
        for member in members(tar, str(path)):
            file = tar.extractfile(member) if member.isreg() else None
            if member.name == "index.json" and file:
                yield from _member(member.name, _without_names(file.read(DOCUMENT_LIMIT)))
            if member.name in NAMES:
                continue
            yield _header(member)
            while file and (data := file.read(CHUNK)):
                yield data
            if file:
                yield b"\0" * (-member.size % tarfile.BLOCKSIZE)
    manifest = [{"Config": image.config_name, "RepoTags": [tag] if tag else None, "Layers": list(image.layers)}]
    yield from _member("manifest.json", json.dumps(manifest).encode())
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _header(member: tarfile.TarInfo) -> bytes:
    """A header written anew: one that an engine reads in another way than it was read here would smuggle names in."""
    header = tarfile.TarInfo(member.name)
    header.type = tarfile.REGTYPE if member.isreg() else member.type
    header.size = member.size if member.isreg() else 0
    header.linkname = member.linkname if member.issym() or member.islnk() else ""
    return header.tobuf(tarfile.PAX_FORMAT)


def _member(name: str, data: bytes) -> Iterator[bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    yield member.tobuf(tarfile.PAX_FORMAT) + data + b"\0" * (-len(data) % tarfile.BLOCKSIZE)


def _without_names(index: bytes) -> bytes:
    try:
        document = json.loads(index)
        for descriptor in document["manifests"]:
            for annotation in _NAME_ANNOTATIONS:
                (descriptor.get("annotations") or {}).pop(annotation, None)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise VerificationError(f"The index.json of the image archive cannot be read: {error!r}.") from error
    return json.dumps(document).encode()

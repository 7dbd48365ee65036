"""Files that hold images, as ``docker save`` and other programs write them: what is in them, by digest.

The configuration of each image is hashed from the same bytes as the file's own SHA-256. Names in the archive are never
believed: they are neither paths nor identities.

Sources: Docker Image Specification v1.2, "Combined Image JSON + Filesystem Changeset Format"; OCI Image Format
Specification, "Image Layout".
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import attrs

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import ExecutionError, NotFoundError, VerificationError
from medperf_core.plugin.context import BackendContext
from medperf_core.plugin.digest import CHUNK
from medperf_core.plugin.events import Progress, StepFinished, StepStarted
from medperf_core.plugin.identities import DIGEST

DOCUMENT_LIMIT = 4 << 20
"""Bytes of one JSON document; what is larger is taken for a layer."""
DOCUMENTS_LIMIT = 64 << 20
"""Bytes of all documents of one archive."""
MEMBER_LIMIT = 20_000
HEADER_LIMIT = 1 << 20
_LINKS_LIMIT = 8
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
NAMES = ("manifest.json", "repositories", "index.json")
"""Files that tell what else is in an archive, and how it is called."""


@attrs.frozen
class Image:
    """One image of an archive.

    Attributes:
        config: digest of its configuration, as computed from the archive.
        config_name: where the configuration is in the archive.
        layers: where its layers are.
        manifests: digests of the manifests or indexes that lead to it in an OCI layout, the outermost first.
        architecture: such as ``amd64``; "" if it does not say.
        saved: whether ``docker save`` wrote it, which makes new manifests; otherwise they are the image's own.
        files: for each layer the member that has its bytes, where ``layers`` names a link.
        document: the configuration itself.
    """

    config: str
    config_name: str
    layers: tuple[str, ...]
    manifests: tuple[str, ...] = ()
    architecture: str = ""
    saved: bool = False
    files: tuple[str, ...] = ()
    document: bytes = attrs.field(default=b"", repr=False, eq=False)


class Header(tarfile.TarInfo):
    """Refuses headers that ``tarfile`` would read into memory whatever their size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENDED and header.size > HEADER_LIMIT:
            raise tarfile.ReadError("a header is larger than any real one")
        return header


class Reading(io.RawIOBase):
    """Hashes and counts what is read; checks for cancellation meanwhile."""

    def __init__(self, raw: IO[bytes], on_bytes: Callable[[int], None]) -> None:
        self._raw, self._on_bytes = raw, on_bytes
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._raw.read(size if size and size > 0 else CHUNK)
        self.digest.update(data)
        self._on_bytes(len(data))
        return data


def choose(source: ImageSource, found: Sequence[Image], expected: Sequence[ImageIdentity], architecture: str) -> Image:
    """The image of an archive that is meant: the recorded one, the only one, or the only one for this machine."""
    recorded = {identity.digest for identity in expected if identity.kind is IdentityKind.CONFIG}
    for candidates in (
        [image for image in found if image.config in recorded],
        found,
        [image for image in found if image.architecture == architecture],
    ):
        if len({image.config for image in candidates}) == 1:
            return candidates[0]
    raise ExecutionError(
        f"The image archive {source.location} holds {len(found)} images; one is needed.",
        hint="Save a single image: `docker save -o FILE NAME:TAG`.",
    )


def read(path: Path, context: BackendContext) -> tuple[str, tuple[Image, ...]]:
    """The SHA-256 (hex) of an archive and the images in it, from one pass over the file.

    Raises:
        NotFoundError: there is no such file.
        VerificationError: it is not an archive of images, or it contradicts itself.
    """
    what = f"Verifying {path.name}"
    context.emit(StepStarted(what))
    try:
        with path.open("rb") as raw:
            stream = Reading(raw, progress(what, path.stat().st_size, context))
            found = scan(stream, str(path))
            while stream.read(CHUNK):  # what follows the end of the tar is part of the file's hash too
                pass
    except OSError as error:
        raise NotFoundError(f"The image archive {path} cannot be read: {error.strerror}.") from error
    context.emit(StepFinished(what))
    return stream.digest.hexdigest(), found


def scan(stream: Any, name: str) -> tuple[Image, ...]:
    """The images in an archive that is read once, from start to end.

    Args:
        stream: gives the archive's bytes by ``read(size)``.
        name: what to call it in errors.

    Raises:
        VerificationError: it is not an archive of images, or it contradicts itself.
    """
    documents: dict[str, bytes] = {}
    links: dict[str, str] = {}
    size = 0
    try:
        with tarfile.open(fileobj=stream, mode="r|*", tarinfo=Header) as tar:
            for member in members(tar, name):
                if not member.isreg():
                    links[member.name] = _target(member)
                if not member.isreg() or member.size > DOCUMENT_LIMIT:
                    continue
                file = tar.extractfile(member)
                data = file.read() if file else b""
                if data[:1] in (b"{", b"[") or member.name in NAMES:
                    size += len(data)
                    if size > DOCUMENTS_LIMIT:
                        raise VerificationError(f"The image archive {name} holds more than its layers can explain.")
                    documents[member.name] = data
    except (tarfile.TarError, EOFError, ValueError, TypeError, RecursionError) as error:
        raise VerificationError(
            f"{name} is not an image archive, or it is damaged: {error}.",
            hint="It must be what `docker save` writes; zstd is not supported.",
        ) from error
    return tuple(
        attrs.evolve(image, files=tuple(_followed(layer, links, name) for layer in image.layers))
        for image in _images(documents, name)
    )


def _target(link: tarfile.TarInfo) -> str:
    inside = posixpath.dirname(link.name) if link.issym() else ""
    return posixpath.normpath(posixpath.join(inside, link.linkname))


def _followed(layer: str, links: Mapping[str, str], name: str) -> str:
    found = posixpath.normpath(layer)
    for _ in range(_LINKS_LIMIT):
        if found not in links:
            return found
        found = links[found]
    raise VerificationError(f"The image archive {name} holds {layer[:100]!r}, which leads nowhere.")


def members(tar: tarfile.TarFile, name: str) -> Iterator[tarfile.TarInfo]:
    """The files and links of an archive that is read as a stream, with names in their shortest form.

    Raises:
        VerificationError: something is in it that no image has, or twice, or too much.
    """
    seen: set[str] = set()
    for number, member in enumerate(tar):
        member.name = posixpath.normpath(member.name)
        known = member.isreg() or member.isdir() or member.issym() or member.islnk()
        if not known or member.issparse() or member.name.startswith(("/", "../")):
            raise VerificationError(
                f"The image archive {name} holds {member.name[:100]!r}, which is no part of an image."
            )
        if member.name in seen or number >= MEMBER_LIMIT:
            raise VerificationError(f"The image archive {name} holds {member.name[:100]!r} twice, or too many files.")
        if not member.isdir():
            seen.add(member.name)
            yield member


def _images(documents: Mapping[str, bytes], name: str) -> tuple[Image, ...]:
    try:
        found = []
        if "index.json" in documents:
            found = list(_oci(documents, json.loads(documents["index.json"]), ()))
        if "manifest.json" in documents:
            made = {image.config: image.manifests for image in found}
            found = [
                _image(documents, entry["Config"], entry["Layers"]) for entry in json.loads(documents["manifest.json"])
            ]
            found = [attrs.evolve(image, manifests=made.get(image.config, ()), saved=True) for image in found]
        elif "index.json" not in documents:
            raise VerificationError(f"{name} is not an image archive: it has neither manifest.json nor index.json.")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise VerificationError(f"The image archive {name} contradicts itself: {error!r}.") from error
    if not found:
        raise VerificationError(f"The image archive {name} holds no image.")
    return tuple(found)


def _image(documents: Mapping[str, bytes], config: str, layers: list[str], manifests: tuple[str, ...] = ()) -> Image:
    if not all(isinstance(layer, str) for layer in layers):
        raise ValueError("a layer without a name")
    if config in NAMES:  # the engine gets these anew
        raise ValueError(f"{config} as a configuration")
    data = documents[config]
    architecture = json.loads(data).get("architecture", "")
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Image(digest, config, tuple(layers), manifests, str(architecture), document=data)


def _oci(documents: Mapping[str, bytes], index: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[Image]:
    if len(above) > 4:
        raise ValueError("indexes within indexes")
    for descriptor in index["manifests"]:
        if (descriptor.get("annotations") or {}).get("vnd.docker.reference.type"):
            continue  # an attestation
        digest = descriptor["digest"]
        data = documents[_blob(digest)]
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise ValueError(f"{digest} is something else")
        document = json.loads(data)
        if "manifests" in document:
            yield from _oci(documents, document, (*above, digest))
        else:
            layers = [_blob(layer["digest"]) for layer in document["layers"]]
            yield _image(documents, _blob(document["config"]["digest"]), layers, (*above, digest))


def _blob(digest: str) -> str:
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r} is not a digest")
    return digest.replace("sha256:", "blobs/sha256/")


def progress(what: str, total: int, context: BackendContext) -> Callable[[int], None]:
    """To be called with the bytes of each piece of a file; tells how far it is now and then, and heeds cancellation."""
    done = told = 0

    def on_bytes(count: int) -> None:
        nonlocal done, told
        context.cancel.raise_if_cancelled()
        done += count
        if done - told > 32 * CHUNK:
            told = done
            context.emit(Progress(what, done, total))

    return on_bytes

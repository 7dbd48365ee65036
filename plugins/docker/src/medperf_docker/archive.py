"""``docker save`` files: what is in them, by digest, and loading them without their tags.

The configuration of the image is hashed here, from the same bytes as the file's own SHA-256; the daemon checks the
layers against it. Names in the archive are never believed, and are taken out of what the daemon gets.
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import attrs

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import CancelledError, ExecutionError, NotFoundError, VerificationError
from medperf_core.plugin import BackendContext, PreparedImage, Progress, StepFinished, StepStarted
from medperf_core.plugin.digest import CHUNK
from medperf_docker import images
from medperf_docker.connect import Client, Connection
from medperf_docker.daemon import Daemon
from medperf_docker.stream import Stopped, checked, messages

DOCUMENT_LIMIT = 4 << 20
DOCUMENTS_LIMIT = 64 << 20
MEMBER_LIMIT = 20_000
HEADER_LIMIT = 1 << 20
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_NAMES = ("manifest.json", "repositories", "index.json")
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


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
    """

    config: str
    config_name: str
    layers: tuple[str, ...]
    manifests: tuple[str, ...] = ()
    architecture: str = ""
    saved: bool = False


class _Header(tarfile.TarInfo):
    """Refuses headers that ``tarfile`` would read into memory whatever their size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENDED and header.size > HEADER_LIMIT:
            raise tarfile.ReadError("a header is larger than any real one")
        return header


class _Reading(io.RawIOBase):
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
    digest, found = read(path, context)
    file_identity = ImageIdentity(IdentityKind.ARCHIVE, f"sha256:{digest}")
    kinds = {identity.kind for identity in expected}
    strong = [identity for identity in expected if identity.kind in (IdentityKind.ARCHIVE, IdentityKind.CONFIG)]
    if expected and not strong and IdentityKind.MANIFEST not in kinds:
        raise images.incomparable(source, expected, (IdentityKind.ARCHIVE, IdentityKind.CONFIG))
    image = choose(source, found, expected, daemon.architecture)
    known = {file_identity, ImageIdentity(IdentityKind.CONFIG, image.config)}
    manifests = {ImageIdentity(IdentityKind.MANIFEST, each) for each in image.manifests if not image.saved}
    with connection.client(f"look up the image of {path}") as client:
        local = _loaded(client, image)
        if local is not None:
            manifests |= {each for each in images.identities(local, daemon) if each.kind is IdentityKind.MANIFEST}
    images.require(source, strong or expected, known if strong else known | manifests)
    if local is None:
        local = _load(connection, context, path, image)
    known |= manifests if not strong else images.identities(local, daemon)
    return images.prepared(local, known, source)


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
            stream = _Reading(raw, _progress(what, path.stat().st_size, context))
            found = scan(stream, str(path))
            while stream.read(CHUNK):  # what follows the end of the tar is part of the file's hash too
                pass
    except OSError as error:
        raise NotFoundError(f"The image archive {path} cannot be read: {error.strerror}.") from error
    context.emit(StepFinished(what))
    return stream.digest.hexdigest(), found


def exported_config(client: Client, identifier: str) -> str:
    """The configuration digest of a local image, for stores whose image ID is something else. Reads all of it."""
    found = scan(_Chunks(client.get_image(identifier)), f"export of {identifier}")
    if len(found) != 1:
        raise VerificationError(f"The engine exported {len(found)} images for {identifier}.")
    return found[0].config


def scan(stream: Any, name: str) -> tuple[Image, ...]:
    """The images in an archive that is read once, from start to end."""
    documents: dict[str, bytes] = {}
    size = 0
    try:
        with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header) as tar:
            for member in _members(tar, name):
                if not member.isreg() or member.size > DOCUMENT_LIMIT:
                    continue
                file = tar.extractfile(member)
                data = file.read() if file else b""
                if data[:1] in (b"{", b"[") or member.name in _NAMES:
                    size += len(data)
                    if size > DOCUMENTS_LIMIT:
                        raise VerificationError(f"The image archive {name} holds more than its layers can explain.")
                    documents[member.name] = data
    except (tarfile.TarError, EOFError, ValueError, TypeError, RecursionError) as error:
        raise VerificationError(
            f"{name} is not an image archive, or it is damaged: {error}.",
            hint="It must be what `docker save` writes; zstd is not supported.",
        ) from error
    return _images(documents, name)


def _members(tar: tarfile.TarFile, name: str) -> Iterator[tarfile.TarInfo]:
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
    if config in _NAMES:  # the engine gets these anew
        raise ValueError(f"{config} as a configuration")
    data = documents[config]
    architecture = json.loads(data).get("architecture", "")
    return Image(f"sha256:{hashlib.sha256(data).hexdigest()}", config, tuple(layers), manifests, str(architecture))


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
    if not images.DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r} is not a digest")
    return digest.replace("sha256:", "blobs/sha256/")


def _loaded(client: Client, image: Image) -> Mapping[str, Any] | None:
    found = (images.inspect(client, digest) for digest in (image.config, *reversed(image.manifests)))
    return next((each for each in found if each is not None), None)


def _load(connection: Connection, context: BackendContext, path: Path, image: Image) -> Mapping[str, Any]:
    doing, what = f"load the image archive {path}", f"Loading {path.name}"
    context.emit(StepStarted(what))

    def data(stopped: Stopped) -> Iterator[bytes]:
        for piece in nameless(path, image, context, what):
            if stopped.is_set():
                raise CancelledError("Loading was given up.")
            yield piece

    stream = messages(connection, context, doing, lambda client, stopped: client.load_image(data(stopped)))
    loaded = "".join(str(message.get("stream", "")) for message in checked(stream, doing))
    with connection.client(doing, patient=True) as client:
        local = _loaded(client, image)
        if local is None:  # a store that names images by a manifest which it made itself
            for word in loaded.split():
                if images.DIGEST.fullmatch(word) and exported_config(client, word) == image.config:
                    local = images.inspect(client, word)
        if local is None:
            raise VerificationError(
                f"Docker loaded something else from {path} than the image {image.config}.",
                hint="The file was changed meanwhile, or is damaged.",
            )
        images.keep(client, local)
    context.emit(StepFinished(what))
    return local


def nameless(path: Path, image: Image, context: BackendContext, what: str) -> Iterator[bytes]:
    """The archive as the daemon gets it: one image, without any name, so that no local tag is moved."""
    with (
        path.open("rb") as raw,
        tarfile.open(
            fileobj=_Reading(raw, _progress(what, path.stat().st_size, context)), mode="r|*", tarinfo=_Header
        ) as tar,
    ):
        for member in _members(tar, str(path)):
            file = tar.extractfile(member) if member.isreg() else None
            if member.name == "index.json" and file:
                yield from _member(member.name, _without_names(file.read(DOCUMENT_LIMIT)))
            if member.name in _NAMES:
                continue
            yield _header(member)
            while file and (data := file.read(CHUNK)):
                yield data
            if file:
                yield b"\0" * (-member.size % tarfile.BLOCKSIZE)
    manifest = [{"Config": image.config_name, "RepoTags": None, "Layers": list(image.layers)}]
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


def _progress(what: str, total: int, context: BackendContext) -> Callable[[int], None]:
    done = told = 0

    def on_bytes(count: int) -> None:
        nonlocal done, told
        context.cancel.raise_if_cancelled()
        done += count
        if done - told > 32 * CHUNK:
            told = done
            context.emit(Progress(what, done, total))

    return on_bytes

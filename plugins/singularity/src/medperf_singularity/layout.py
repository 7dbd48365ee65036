"""OCI image layouts: a folder with an image's blobs, each named by its digest, from which the engine makes a SIF.

The engine checks blobs against the manifest, but not the unpacked layers against the configuration (``diff_ids``):
another manifest could give a recorded configuration other layers. That is checked here, while layers are written.

Sources: OCI Image Format Specification, "Image Layout", "Image Configuration".
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import attrs
import zstandard
from isal import isal_zlib

from medperf_core.entities.image import ImageSource
from medperf_core.errors import VerificationError
from medperf_core.plugin import BackendContext, StepFinished, StepStarted
from medperf_core.plugin.digest import CHUNK
from medperf_core.plugin.identities import DIGEST
from medperf_core.plugin.image_archive import Header, Image, Reading, members, progress
from medperf_singularity.files import free, no_room

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_PIECE = 1 << 10
"""Bytes that are unpacked at once: zstd cannot be told to stop, and may make 32,000 times as much of them."""
_WINDOW_LIMIT = 128 << 20
_ISAL_ERROR: type[Exception] = vars(isal_zlib)["IsalError"]  # its type hints take the class for an instance
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_LAYERS_LIMIT = 1000
_GUARDED: dict[str, bytes | None] = {
    ".wh..singularity.d": b"",
    "etc": None,
    "etc/hosts": b"127.0.0.1 localhost\n::1 localhost\n",
    "etc/resolv.conf": b"",
    "var": None,
}
"""What the last layer holds: the mark of a removed folder, folders (None) in the place of links, and files."""


@attrs.frozen
class Blob:
    """A layer as it was written.

    Attributes:
        digest: of its bytes, ``sha256:HEX``.
        size: bytes.
        diff_id: digest of the tar that it unpacks to.
        unpacked: bytes of that tar.
        suffix: of its media type: "", ``+gzip`` or ``+zstd``.
    """

    digest: str
    size: int
    diff_id: str
    unpacked: int
    suffix: str


class LayerWriter:
    """Takes a layer's bytes in pieces, writes and hashes them, and hashes what they unpack to.

    Args:
        room: bytes that all of the image's files may take; a layer that unpacks to more is refused while it comes.
    """

    def __init__(self, stream: IO[bytes], room: int) -> None:
        self._stream, self._room = stream, room
        self._packed, self._plain = hashlib.sha256(), hashlib.sha256()
        self._head = b""
        self._unzip: Any = None
        self._started = False
        self.size = self.unpacked = 0

    def feed(self, data: bytes) -> None:
        """The next piece.

        Raises:
            VerificationError: it is not compressed as it began.
            RoomError: it unpacks to more than there is room for.
        """
        self._stream.write(data)
        self._packed.update(data)
        self.size += len(data)
        if self._started:
            self._unpack(data)
        else:
            self._head += data
            if len(self._head) >= len(_ZSTD):
                self._start()

    def _start(self) -> None:
        self._started = True
        if self._head.startswith(_GZIP):
            self._unzip = isal_zlib.decompressobj(wbits=31)
        elif self._head.startswith(_ZSTD):
            self._unzip = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT).decompressobj()
        self._unpack(self._head)

    def _unpack(self, data: bytes) -> None:
        try:
            if self._unzip is None:
                self._take(data)
            elif self._head.startswith(_GZIP):
                self._gunzip(data)
            else:
                self._unzstd(data)
        except (_ISAL_ERROR, zstandard.ZstdError) as error:
            raise VerificationError(f"A layer of the image is damaged: {error}.") from error

    def _gunzip(self, data: bytes) -> None:
        while data:
            if self._unzip.eof:  # gzip files may be joined
                self._unzip = isal_zlib.decompressobj(wbits=31)
            self._take(self._unzip.decompress(data, CHUNK))
            data = self._unzip.unused_data if self._unzip.eof else self._unzip.unconsumed_tail

    def _unzstd(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            piece, rest = bytes(rest[:_ZSTD_PIECE]), rest[_ZSTD_PIECE:]
            while piece:
                if self._unzip.eof:  # zstd frames too
                    self._unzip = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT).decompressobj()
                self._take(self._unzip.decompress(piece))
                piece = self._unzip.unused_data

    def _take(self, data: bytes) -> None:
        self._plain.update(data)
        self.unpacked += len(data)
        if self.unpacked > self._room:
            raise RoomError(self.unpacked)

    def end(self) -> Blob:
        """The whole layer; VerificationError if it stops in the middle."""
        if not self._started:
            self._start()
        digest = f"sha256:{self._packed.hexdigest()}"
        if self._unzip is not None and not self._unzip.eof:
            raise VerificationError("A layer of the image is damaged: it ends too early.")
        diff_id = f"sha256:{self._plain.hexdigest()}"
        suffix = "" if self._unzip is None else ("+gzip" if self._head.startswith(_GZIP) else "+zstd")
        return Blob(digest, self.size, diff_id, self.unpacked, suffix)


class RoomError(Exception):
    """A layer unpacks to more than there is room for; ``args`` has the bytes so far."""


@attrs.define
class Layout:
    """A layout that is being filled.

    Attributes:
        folder: where it is.
        what: the image, for people.
    """

    folder: Path
    what: str
    blobs: dict[str, Blob] = attrs.field(factory=dict)

    @classmethod
    def create(cls, work: Path, what: str) -> Layout:
        """An empty one, as ``layout`` in a private folder."""
        folder = work / "layout"
        (folder / "blobs" / "sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        return cls(folder, what)

    def layer(self, key: str, pieces: Iterator[bytes]) -> Blob:
        """Write one layer, remembered under ``key``.

        Raises:
            VerificationError: it is damaged.
            ExecutionError: there is no room for what it unpacks to.
        """
        part = self.folder / f"layer-{len(self.blobs)}.part"
        sum_so_far = sum(blob.unpacked for blob in self.blobs.values())
        with part.open("wb") as stream:
            writer = LayerWriter(stream, max(free(self.folder) - sum_so_far, 0))
            try:
                for piece in pieces:
                    writer.feed(piece)
                blob = writer.end()
            except RoomError as error:
                need = sum_so_far + int(error.args[0])
                raise no_room(f"unpack the image {self.what}", self.folder, need, free(self.folder)) from None
        part.replace(self._place(blob.digest))
        self.blobs[key] = blob
        return blob

    def _place(self, digest: str) -> Path:
        if not DIGEST.fullmatch(digest):
            raise VerificationError(f"The image {self.what} names a part {digest[:80]!r}, which is not a digest.")
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def _put(self, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._place(digest).write_bytes(data)
        return digest

    def finish(self, config: bytes, layers: Sequence[Blob]) -> None:
        """Write configuration, manifest and index; the layout is then whole.

        The manifest is made here, of blobs that were hashed and verified here and of a layer that guards the engine.
        """
        guard = self.layer("guard", iter((_guard(),)))
        layers, config = (*layers, guard), _with_layer(config, guard.diff_id)
        document = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "digest": self._put(config), "size": len(config)},
            "layers": [
                {"mediaType": f"{_LAYER}{layer.suffix}", "digest": layer.digest, "size": layer.size} for layer in layers
            ],
        }
        manifest = json.dumps(document).encode()
        entry = {"mediaType": _MANIFEST, "digest": self._put(manifest), "size": len(manifest)}
        index = {"schemaVersion": 2, "manifests": [entry]}
        (self.folder / "index.json").write_text(json.dumps(index))

    @property
    def unpacked(self) -> int:
        """Bytes of all layers unpacked."""
        return sum(blob.unpacked for blob in self.blobs.values())


def _guard() -> bytes:
    """A last layer, without which an image could write to files of this machine while it is converted.

    The engine writes its own files into the unpacked image (``/.singularity.d``, ``/etc/hosts``, ``/etc/resolv.conf``)
    by their names, and would follow symbolic links of the image out of it. Here they are taken out or replaced: an
    image has no business with the first, and Docker replaces the others too.
    """
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in _GUARDED.items():
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            else:
                entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content or b""))
    return data.getvalue()


def _with_layer(config: bytes, diff_id: str) -> bytes:
    document = json.loads(config)
    document["rootfs"]["diff_ids"].append(diff_id)
    document.pop("history", None)  # it would have one entry too few
    return json.dumps(document).encode()


def verify(config: bytes, layers: Sequence[Blob], what: str) -> None:
    """Check that the layers are those that the configuration names.

    Raises:
        VerificationError: they are others.
    """
    try:
        wanted = json.loads(config)["rootfs"]["diff_ids"]
        if not isinstance(wanted, list) or not all(isinstance(each, str) for each in wanted):
            raise ValueError("diff_ids is no list of digests")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationError(
            f"The configuration of the image {what} does not name its layers: {error!r}."
        ) from error
    if wanted != [layer.diff_id for layer in layers]:
        raise VerificationError(
            f"The layers of the image {what} are not those that its configuration names.",
            hint="It is damaged, or somebody changed it; nothing of it was kept.",
        )


def from_archive(
    path: Path, sha256: str, image: Image, work: Path, source: ImageSource, context: BackendContext
) -> Layout:
    """Take one image out of an archive that was read before.

    Args:
        sha256: what the archive was then, hexadecimal.

    Raises:
        VerificationError: it changed since, its layers are not those of the configuration, or it has not all of them.
    """
    layout = Layout.create(work, str(source))
    wanted = set(image.files)
    step = f"Unpacking {path.name}"
    if len(image.files) > _LAYERS_LIMIT:
        raise VerificationError(f"The image {source} has {len(image.files)} layers; no real one has.")
    context.emit(StepStarted(step))
    try:
        with path.open("rb") as raw:
            stream = Reading(raw, progress(step, path.stat().st_size, context))
            with tarfile.open(fileobj=stream, mode="r|*", tarinfo=Header) as tar:
                for member in members(tar, str(path)):
                    file = tar.extractfile(member) if member.isreg() and member.name in wanted else None
                    if file is not None:
                        layout.layer(member.name, _pieces(file.read))
            while stream.read(CHUNK):
                pass
    except (tarfile.TarError, EOFError) as error:
        raise VerificationError(f"The image archive {path} is damaged: {error}.") from error
    if stream.digest.hexdigest() != sha256:
        raise VerificationError(f"The image archive {path} changed while it was read.", hint="Run the command again.")
    missing = wanted - set(layout.blobs)
    if missing:
        raise VerificationError(f"The image archive {path} lacks a layer: {min(missing)[:100]!r}.")
    layers = [layout.blobs[name] for name in image.files]
    verify(image.document, layers, str(source))
    layout.finish(image.document, layers)
    context.emit(StepFinished(step))
    return layout


def _pieces(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while piece := read(CHUNK):
        yield piece

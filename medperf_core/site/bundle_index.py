"""What a bundle says of itself: its index, and the signature of its maker.

A bundle is a plain tar. Its members, in this order: ``medperf-bundle.sig`` (missing if it is not signed),
``medperf-bundle.json`` (the index), then every entry of the index, in the order of their SHA-256, named by it.
What is signed is the index behind a prefix of its own, so that no signature of this key can be taken for another.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from medperf_core.entities import Benchmark, Container, IdentityKind, ImageIdentity, Model, SourceKind, checks
from medperf_core.entities.codec import from_data, to_json
from medperf_core.errors import InvalidEntityError, VerificationError
from medperf_core.plugin.identities import agrees
from medperf_core.site.keys import FINGERPRINT, PUBLIC_BYTES, SIGNATURE_BYTES, fingerprint, verify

FORMAT = 1
DOMAIN = b"medperf-bundle-v1\0"
"""Stands before the index in what is signed."""
SIGNATURE_NAME = "medperf-bundle.sig"
INDEX_NAME = "medperf-bundle.json"
SIGNATURE_LIMIT = 4096
INDEX_LIMIT = 16 << 20
ENTRIES_LIMIT = 10_000
BYTES_LIMIT = 1 << 44
ENTITIES_LIMIT = 1000
PARTS_LIMIT = 500_000
"""Maps and lists of an index, counted before it is parsed: empty ones need much memory and few bytes."""
_PLATFORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _hash(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not checks.SHA256_HEX.fullmatch(value):
        raise InvalidEntityError(f"{attribute.name} is not a SHA-256.")


def _size(instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    if not 0 <= value <= BYTES_LIMIT:
        raise InvalidEntityError(f"{attribute.name} is {value}, which is no size of a file.")


def _moment(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    try:
        known = len(value) < 40 and datetime.fromisoformat(value).utcoffset() == timedelta(0)
    except ValueError:
        known = False
    if not known:
        raise InvalidEntityError(f"{attribute.name} is no moment in UTC.")


def _maker(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    if value and not FINGERPRINT.fullmatch(value):
        raise InvalidEntityError(f"{attribute.name} is no fingerprint.")


def _identities(instance: object, attribute: attrs.Attribute[list[str]], value: list[str]) -> None:
    for text in value:
        ImageIdentity.parse(text)


def _platforms(instance: object, attribute: attrs.Attribute[list[str]], value: list[str]) -> None:
    if not all(_PLATFORM.fullmatch(name) for name in value):
        raise InvalidEntityError(f"{attribute.name} has what is no name of a platform.")


@attrs.frozen(kw_only=True)
class BundleEntry:
    """A file in a bundle.

    Attributes:
        sha256: hexadecimal; also its name in the tar.
        size: bytes.
        what: for people.
    """

    sha256: str = attrs.field(validator=_hash)
    size: int = attrs.field(validator=_size)
    what: str = attrs.field(validator=checks.text(500))


@attrs.frozen(kw_only=True)
class BundleImage:
    """An image file of a container.

    Attributes:
        container: its UID.
        kind: ``archive`` or ``sif``.
        sha256: of the entry.
        identities: what the image verifiably was when the maker saved it.
    """

    container: int = attrs.field(validator=checks.required_uid)
    kind: SourceKind = attrs.field(converter=SourceKind)
    sha256: str = attrs.field(validator=_hash)
    identities: list[str] = attrs.field(validator=_identities)

    def __attrs_post_init__(self) -> None:
        if self.kind not in (SourceKind.ARCHIVE, SourceKind.SIF):
            raise InvalidEntityError(f"kind is {self.kind.value}, which is no image file.")


@attrs.frozen(kw_only=True)
class BundleIndex:
    """All that a bundle says.

    Attributes:
        format: version of this form.
        benchmark: UID of the benchmark that it is for.
        server: the server that gave the UIDs; for a registry in a file, ``embedded:`` and a hash of its path.
        maker: fingerprint of the key that signed it; "" if it is not signed.
        created_at: UTC, ISO 8601.
        platforms: for which it has images.
        benchmarks, models, containers: as the server shows them to everybody.
        entries: the files, in the order of their SHA-256.
        images: which of them are images, and of what.
    """

    format: int = FORMAT
    benchmark: int = attrs.field(validator=checks.required_uid)
    server: str = attrs.field(validator=checks.text(1000, blank=False))
    maker: str = attrs.field(validator=_maker)
    created_at: str = attrs.field(validator=_moment)
    platforms: list[str] = attrs.field(validator=_platforms)
    benchmarks: list[Benchmark]
    models: list[Model]
    containers: list[Container]
    entries: list[BundleEntry]
    images: list[BundleImage]

    def __attrs_post_init__(self) -> None:
        names = [entry.sha256 for entry in self.entries]
        if names != sorted(set(names)) or len(names) > ENTRIES_LIMIT:
            raise InvalidEntityError("entries are not in order, or are too many.")
        if sum(entry.size for entry in self.entries) > BYTES_LIMIT:
            raise InvalidEntityError("entries are larger than any bundle.")
        for kind, things in (("benchmark", self.benchmarks), ("model", self.models), ("container", self.containers)):
            ids = [thing.id for thing in things]
            if len(ids) > ENTITIES_LIMIT or len(set(ids)) != len(ids) or None in ids:
                raise InvalidEntityError(f"a {kind} has no UID, or there are two of one UID, or too many.")
            if any(thing.owner is None for thing in things):
                raise InvalidEntityError(f"a {kind} has no owner.")
        known = {container.id for container in self.containers}
        listed = set(names)
        for image in self.images:
            if image.container not in known or image.sha256 not in listed:
                raise InvalidEntityError("an image is of no container or file that is listed.")
        own = next((benchmark for benchmark in self.benchmarks if benchmark.id == self.benchmark), None)
        if own is None:
            raise InvalidEntityError(f"benchmark {self.benchmark} is not among the benchmarks.")
        reference = next((model.container for model in self.models if model.id == own.reference_model), None)
        runs = {own.data_preparation_mlcube, own.data_evaluator_mlcube, reference.id if reference else None}
        if not runs <= known:
            raise InvalidEntityError(f"what benchmark {self.benchmark} runs is not all listed.")
        for what, _, sha256 in needed_files(own, self.containers):
            if sha256 not in listed:
                raise InvalidEntityError(f"the {what} is not among the entries.")
        recorded = {container.id: container.images() for container in self.containers}
        for image in self.images:
            if not _fits(image, recorded[image.container]):
                raise InvalidEntityError(f"an image of container {image.container} is not the recorded one.")

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return sum(entry.size for entry in self.entries)

    @property
    def made(self) -> datetime:
        """When it was made."""
        return datetime.fromisoformat(self.created_at).astimezone(UTC)


def needed_files(benchmark: Benchmark, containers: Sequence[Container]) -> Iterator[tuple[str, str, str]]:
    """What each file is that a benchmark's containers need, its address, and its SHA-256; without images.

    Raises:
        InvalidEntityError: a record of where files are is malformed.
    """
    yield "demo dataset", benchmark.demo_dataset_tarball_url, benchmark.demo_dataset_tarball_hash
    words = {"mlcube": "manifest", "parameters": "parameters", "project": "project"}
    for container in containers:
        name = f"container {container.id} ({container.name})"
        for part, source in sorted(container.sources().items()):
            if part in words:
                yield f"{words[part]} of {name}", source["url"], source["sha256"]
        if container.additional_files_tarball_url:
            url, sha256 = container.additional_files_tarball_url, container.additional_files_tarball_hash
            yield f"additional files of {name}", url, sha256


def _fits(image: BundleImage, recorded: Sequence[ImageIdentity]) -> bool:
    """Whether an image may be the one that is recorded, as far as identities of the same kinds can be compared: not
    those of files, of which one image may have several."""
    known = [ImageIdentity.parse(text) for text in image.identities]
    shared = {identity.kind for identity in known} - {IdentityKind.ARCHIVE, IdentityKind.SIF}
    wanted = [identity for identity in recorded if identity.kind in shared]
    return not wanted or agrees(wanted, known)


def write_index(index: BundleIndex) -> bytes:
    """Its bytes, as they are in the bundle."""
    return to_json(index)


def signed_bytes(index: bytes) -> bytes:
    """The bytes that are signed for an index."""
    return DOMAIN + index


def read_index(data: bytes, name: str) -> BundleIndex:
    """Structure an index that may say anything.

    Args:
        name: of the bundle, for errors.

    Raises:
        InvalidEntityError: it is none, or breaks its rules.
        VerificationError: it is of a newer form.
    """
    document = _json(data, INDEX_LIMIT, name)
    if document.get("format") != FORMAT or isinstance(document.get("format"), bool):
        raise VerificationError(
            f"The bundle {name} is of the form {str(document.get('format'))[:20]!r}; this program reads form {FORMAT}.",
            hint="Update medperf-core, or have it made by a program of this version.",
        )
    try:
        return from_data(document, BundleIndex)
    except RecursionError as error:
        raise InvalidEntityError(f"The index of the bundle {name} is nested too deep.") from error


def write_signature(public: bytes, signature: bytes) -> bytes:
    """The content of the member beside the index."""
    return to_json({"key": base64.b64encode(public).decode(), "signature": base64.b64encode(signature).decode()})


def signer(data: bytes, index: bytes, name: str) -> str:
    """The fingerprint of the key that signed an index.

    Args:
        data: the content of the member beside the index.

    Raises:
        InvalidEntityError: it is no signature.
        VerificationError: it is not one of this index.
    """
    document = _json(data, SIGNATURE_LIMIT, name)
    try:
        public, signature = (base64.b64decode(document[key], validate=True) for key in ("key", "signature"))
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise InvalidEntityError(f"The signature of the bundle {name} cannot be read.") from error
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES or set(document) != {"key", "signature"}:
        raise InvalidEntityError(f"The signature of the bundle {name} is not an Ed25519 signature.")
    try:
        verify(public, signature, signed_bytes(index))
    except VerificationError as error:
        raise VerificationError(
            f"The bundle {name} is not what its maker signed: its index was changed, or the signature is of another "
            "one. Nothing of it was kept.",
            hint="Get it again from its maker.",
        ) from error
    return fingerprint(public)


def _json(data: bytes, limit: int, name: str) -> dict[str, Any]:
    if len(data) > limit:
        raise InvalidEntityError(f"The bundle {name} has an index or a signature that is larger than any real one.")
    if data.count(b"{") + data.count(b"[") > PARTS_LIMIT:
        raise InvalidEntityError(f"The bundle {name} has an index with more parts than any real one.")
    try:
        document = json.loads(data)
        # Halves of characters, which JSON can name, could be neither printed nor written.
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidEntityError(f"The bundle {name} has an index or a signature that is not JSON.") from error
    if not isinstance(document, dict):
        raise InvalidEntityError(f"The bundle {name} has an index or a signature that is no map.")
    return document

"""SIF files, as far as this runner looks into them: their parts, architecture, and the configuration they carry.

They are read here, not by the engine's ``inspect``: that starts a shell of the image, which is a stranger's program.

Source: the SIF format as github.com/apptainer/sif documents it (global header and descriptors, version 01).
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import IO

import attrs

from medperf_core.errors import VerificationError
from medperf_singularity.config import RUNSCRIPT, ImageConfig

_HEADER = struct.Struct("<32s10s3s3s16s8q")
_DESCRIPTOR = struct.Struct("<i?III7q128s384s")
_DEFINITION, _PARTITION, _GENERIC_JSON = 0x4001, 0x4004, 0x4006
_SQUASHFS, _PRIMARY = 1, 2
_DESCRIPTORS_LIMIT = 512
_DOCUMENT_LIMIT = 4 << 20
_ARCHITECTURES = {b"01": "386", b"02": "amd64", b"03": "arm", b"04": "arm64", b"05": "ppc64", b"06": "ppc64le"}
OCI_CONFIG = "oci-config.json"


@attrs.frozen
class _Part:
    kind: int
    offset: int
    size: int
    name: str
    extra: bytes


def describe(path: Path) -> ImageConfig:
    """How a SIF is run: what it says of the OCI image it was made from, else its own run script.

    Raises:
        VerificationError: it is no SIF, or one that is not run: several or writable file systems, or encrypted.
    """
    with path.open("rb") as stream:
        architecture, parts = _parts(stream, path)
        _system(parts, path)
        scripts = (_bytes(stream, part) for part in parts if part.kind == _DEFINITION)  # one at a time in memory
        documents = [part for part in parts if part.kind == _GENERIC_JSON and part.name == OCI_CONFIG]
        if len(documents) == 1 and not any(b"%runscript" in script for script in scripts):
            try:
                document = json.loads(_bytes(stream, documents[0]))
            except (ValueError, RecursionError) as error:
                raise VerificationError(f"The SIF {path} carries a configuration that is not JSON: {error}.") from error
            if isinstance(document, dict) and "config" not in document:  # the engine stores the inner part alone
                document = {"config": document}
            found = ImageConfig.from_oci(document, str(path))
        else:
            found = ImageConfig(entrypoint=(RUNSCRIPT,))
    return attrs.evolve(found, architecture=found.architecture or architecture)


def file_system(path: Path) -> int:
    """Where in a SIF its root file system (squashfs) begins, in bytes. Raises as ``describe`` does."""
    with path.open("rb") as stream:
        return _system(_parts(stream, path)[1], path).offset


def _system(parts: list[_Part], path: Path) -> _Part:
    systems = [part for part in parts if part.kind == _PARTITION]
    primary = [part for part in systems if struct.unpack_from("<ii", part.extra)[1] == _PRIMARY]
    if len(primary) != 1 or len(systems) != 1 or struct.unpack_from("<i", primary[0].extra)[0] != _SQUASHFS:
        raise VerificationError(
            f"The SIF {path} holds something else than one read-only file system (squashfs).",
            hint="Build it anew from its definition or its OCI image, without overlay and encryption.",
        )
    return primary[0]


def _parts(stream: IO[bytes], path: Path) -> tuple[str, list[_Part]]:
    size = path.stat().st_size
    head = stream.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise VerificationError(f"{path} is no SIF: it is too short.")
    _, magic, version, architecture, _, *numbers = _HEADER.unpack(head)
    if magic != b"SIF_MAGIC\0" or version != b"01\0":
        raise VerificationError(
            f"{path} is no SIF of version 01.", hint="Images of Singularity 2 must be converted: build a SIF of them."
        )
    count, offset, length = numbers[3], numbers[4], numbers[5]
    if not 0 < count <= _DESCRIPTORS_LIMIT or offset < _HEADER.size or offset + length > size:
        raise VerificationError(f"The SIF {path} is damaged: its list of parts is not inside.")
    if length < count * _DESCRIPTOR.size:
        raise VerificationError(f"The SIF {path} is damaged: its list of parts is too short.")
    stream.seek(offset)
    found = []
    for _ in range(count):
        kind, used, _, _, _, at, bytes_, *_, name, extra = _DESCRIPTOR.unpack(stream.read(_DESCRIPTOR.size))
        if not used:
            continue
        if at < 0 or bytes_ < 0 or at + bytes_ > size:
            raise VerificationError(f"The SIF {path} is damaged: a part of it is not inside.")
        found.append(_Part(kind, at, bytes_, name.partition(b"\0")[0].decode("utf-8", "replace"), extra))
    return _ARCHITECTURES.get(architecture[:2], ""), found


def _bytes(stream: IO[bytes], part: _Part) -> bytes:
    if part.size > _DOCUMENT_LIMIT:
        raise VerificationError(f"A SIF carries a document {part.name[:80]!r} that is larger than any real one.")
    stream.seek(part.offset)
    return stream.read(part.size)

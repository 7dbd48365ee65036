"""Writes image archives as ``docker save`` does, without an engine.

Format: ``manifest.json`` with the names of a configuration and its layers; see "Docker Image Specification v1.2".
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_CREATED = "1970-01-01T00:00:00Z"


def layer_digest(path: Path) -> str:
    """SHA-256 (hex) of a layer, an uncompressed tar."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def configuration(digests: Sequence[str], config: Mapping[str, Any]) -> bytes:
    """The configuration of an image for this machine.

    Args:
        digests: of its layers, as ``layer_digest`` gives them, the lowest first.
        config: how it is run: ``Env``, ``Entrypoint``, ``Cmd``, ``WorkingDir``, ...
    """
    machine = platform.machine()
    document = {
        "architecture": _MACHINES.get(machine, machine),
        "os": "linux",
        "created": _CREATED,
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created": _CREATED} for _ in digests],
    }
    return json.dumps(document).encode()


def save(path: Path, config: bytes, layers: Sequence[tuple[Path, str]], tag: str) -> None:
    """Write an archive of one image.

    Args:
        config: what ``configuration`` gave for the layers.
        layers: files and digests of the layers, the lowest first.
        tag: the image's name, such as ``localhost/probe:1``.
    """
    digest = hashlib.sha256(config).hexdigest()
    with path.open("wb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        _text(tar, f"{digest}.json", config)
        names = [f"{each}/layer.tar" for _, each in layers]
        for name, (layer, _) in zip(names, layers, strict=True):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = layer.stat().st_size, 0o644
            with layer.open("rb") as content:
                tar.addfile(entry, content)
        _text(
            tar,
            "manifest.json",
            json.dumps([{"Config": f"{digest}.json", "RepoTags": [tag], "Layers": names}]).encode(),
        )


def _text(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))

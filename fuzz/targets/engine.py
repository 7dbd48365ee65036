"""What a Docker daemon answers, and build files of a source tree."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medperf_core.entities.image import ImageSource, SourceKind
from medperf_core.errors import MedperfError
from medperf_core.plugin.identities import agrees
from medperf_docker import daemon, images
from medperf_docker.build import base_images
from medperf_docker.connect import engine_error, one_line, understood
from medperf_docker.stream import LayerProgress, checked

from fuzz.target import Draw, Target

WORDS = (
    "Id", "ID", "RepoDigests", "RepoTags", "Config", "Entrypoint", "Cmd", "Labels", "Volumes", "status",
    "progressDetail", "current",
    "total", "id", "error", "stream", "Downloading", "Download complete", "SecurityOptions",
    "name=seccomp,profile=builtin", "NCPU",
    "DriverStatus", "DiscoveredDevices", "Components", "Name", "ApiVersion", "1.41", "Runtimes", "nvidia", "OSType",
    "linux",
    "sha256:" + "0" * 64, "a@sha256:" + "1" * 64, "MemoryLimit",
)  # fmt: skip
INFO = {
    "OSType": "linux",
    "NCPU": 2,
    "SecurityOptions": ["name=seccomp,profile=builtin"],
    "MemoryLimit": True,
    "ID": "x",
}
VERSION = {"Version": "20.10", "ApiVersion": "1.41", "Arch": "amd64", "Components": [{"Name": "Engine"}]}
SOURCE = ImageSource(SourceKind.REGISTRY, "a:b")
with understood("load what it needs"):  # now: loading it later would look like opening a connection
    pass


def _map(draw: Draw, base: dict[str, Any]) -> dict[str, Any]:
    return base | {draw.text(WORDS): draw.value(WORDS, 3) for _ in range(draw.number(5))}


def run_answers(data: bytes, folder: Path) -> None:
    with understood("answer"):  # as every answer is read
        _read_answers(Draw(data))


def _read_answers(draw: Draw) -> None:
    match draw.number(4):
        case 0:
            found = daemon.read(_map(draw, INFO), _map(draw, VERSION))
            assert found.engine.isprintable() and found.storage.isprintable()
            daemon.capabilities(found, "unix:///x", root_inside=draw.flag(), filtered=draw.flag())
        case 1:
            image = _map(draw, {"Id": "sha256:" + "0" * 64})
            known = images.identities(image, daemon.read(INFO, VERSION))
            agrees(known, known)
            images.prepared(image, known, SOURCE)
        case 2:
            progress = LayerProgress("pulling", lambda event: None)
            messages = [_map(draw, {"status": draw.text(WORDS), "id": "1"}) for _ in range(draw.number(6))]
            for message in checked(messages, "pull"):
                progress.take(message)
        case _:
            words = draw.rest().decode("utf-8", "replace")
            assert one_line(words).isprintable()
            error = engine_error("pull", words)
            assert isinstance(error, MedperfError) and str(error).isprintable()


def run_build_file(data: bytes, folder: Path) -> None:
    found = list(base_images(data.decode("utf-8", "replace"), {"BASE": "python:3.11"}))
    assert not any(set(name) & set(" \t\n") for name in found if "$" not in name)


def _seeds() -> Iterable[bytes]:
    for how in range(4):
        yield bytes([how]) + bytes(range(200))
        yield bytes([how]) + json.dumps(INFO).encode()


def _build_seeds() -> Iterable[bytes]:
    yield b"ARG BASE=a:b\nFROM ${BASE:-x} AS one\nCOPY --from=one /a /b\n"
    yield b"FROM --platform=linux/amd64 y\nCOPY --from=z a b\n"
    yield b"FROM a\\\n  b\nFROM\nARG\nFROM $\nFROM ${\nCOPY --from=\n"


TARGETS = (
    Target("docker-answers", run_answers, _seeds, WORDS, 1024),
    Target(
        "build-file", run_build_file, _build_seeds, ("FROM ", "ARG ", "COPY --from=", "${", ":-", "}", "\\\n", " AS ")
    ),
)

"""What is read of images before an engine without a daemon sees them: SIF files, configurations, build files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path

from medperf_core.errors import MedperfError
from medperf_singularity import sif
from medperf_singularity.config import ImageConfig
from medperf_singularity.recipe import read_recipe

from fuzz.target import Draw, Target

WORDS = (
    "config", "Entrypoint", "Cmd", "Env", "WorkingDir", "User", "architecture", "PATH=/bin", "A=b", "/", "..", "amd64",
    "=", "0:0", "sh",
)  # fmt: skip
STEPS = (
    "FROM ",
    "ARG ",
    "ENV ",
    "COPY ",
    "WORKDIR ",
    "ENTRYPOINT ",
    "CMD ",
    "USER ",
    "a:b\n",
    "${A:-b}",
    "\\\n",
    '["x"]',
)


def run_sif(data: bytes, folder: Path) -> None:
    path = folder / "image.sif"
    path.write_bytes(data)
    found = sif.describe(path)
    assert found.entrypoint
    assert 0 <= sif.file_system(path) <= len(data)


def run_config(data: bytes, folder: Path) -> None:
    draw = Draw(data)
    config = ImageConfig.from_oci(draw.value(WORDS), "x") if draw.flag() else ImageConfig.read_oci(draw.rest(), "x")
    assert ImageConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert not any("\0" in word for word in (*config.entrypoint, *config.cmd, *config.env.values()))


def run_recipe(data: bytes, folder: Path) -> None:
    recipe = read_recipe(data.decode("utf-8", "replace"), {"A": "b"})
    try:
        config = recipe.configure(ImageConfig(("sh",), (), {"PATH": "/bin"}, "/w", "", "amd64"))
    except MedperfError:
        return
    assert config.working_dir.startswith("/")
    assert all(step.target.startswith("/") and "/../" not in step.target for step in recipe.copies)


def _sif(extra: bytes = b"", kind: int = 0x4004, size: int = 8) -> bytes:
    head = struct.pack(
        "<32s10s3s3s16s8q", b"#!/usr/bin/env run", b"SIF_MAGIC\0", b"01\0", b"02\0", b"", 0, 0, 0, 1, 128, 585, 0, 0
    )
    part = struct.pack("<i?III7q128s384s", kind, True, 1, 0, 0, 713, size, size, 0, 0, 0, 0, b"x\0", extra)
    return head + part + b"\0" * 16


def _sifs() -> Iterable[bytes]:
    whole = _sif(struct.pack("<ii", 1, 2))
    yield from (whole, whole[:200], _sif(), _sif(kind=0x4006), _sif(struct.pack("<ii", 1, 2), size=1 << 40))


def _configs() -> Iterable[bytes]:
    document = {"architecture": "amd64", "config": {"Entrypoint": ["sh"], "Env": ["PATH=/bin"], "WorkingDir": "/w"}}
    yield b"\0" + json.dumps(document).encode()
    yield b"\1" + bytes(range(200))


def _recipes() -> Iterable[bytes]:
    yield b'ARG A=b\nFROM ${A} AS one\nENV X=1 Y="2 3"\nCOPY a b /c/\nWORKDIR w\nENTRYPOINT ["x"]\nCMD y\n'
    yield b"FROM a\nCOPY ../x /y\nUSER 1\nADD x.tar /\nRUN z\n"


TARGETS = (
    Target("sif", run_sif, _sifs, ("SIF_MAGIC\0", "oci-config.json", "%runscript"), 8192),
    Target("image-config", run_config, _configs, WORDS),
    Target("recipe", run_recipe, _recipes, STEPS),
)

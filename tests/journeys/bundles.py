"""Bundles for tests: sites without a connection, and bundles that were changed by others than their makers."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from medperf_core import Site, SiteOptions
from medperf_core.entities.codec import to_json
from medperf_core.journeys.bundle import load_bundle
from medperf_core.site.bundle_index import signed_bytes, write_signature
from medperf_core.site.home import Home
from medperf_core.site.keys import KeyStore, SiteKey
from medperf_core.site.profiles import ProfileStore

from .conftest import Tutorial

OFFLINE = SiteOptions(offline=True, allow=("no-isolation",))


@attrs.frozen
class Island:
    """A site without a connection."""

    home: Path

    def site(self, **options: Any) -> Site:
        return Site.open(self.home, profile="island", options=attrs.evolve(OFFLINE, **options))

    def load(self, path: Path, **options: Any) -> None:
        with self.site(**options) as site:
            load_bundle(site, path)

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was taken in but, perhaps, whole files of the bundle that were verified."""
        with self.site() as site:
            left = [*(site.cache.root / "temp").iterdir(), *(site.cache.root / "partial").glob("*.part")]
            kept = [path for path in (self.home / "bundles").rglob("*") if path.is_file()]
            return left == kept == [] and site.cache.verify() == [] and site.bundles == ()


def island(place: Path, *trusted: str, platform: str = "process") -> Island:
    home = Home.open(place / "island")
    ProfileStore(home).create("island", platform=platform, trusted_keys=list(trusted))
    return Island(home.path)


def maker(shared: Tutorial) -> str:
    with shared.site() as site:
        return KeyStore(site.home).read().fingerprint


def members(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as tar:
        return [(item, file.read() if (file := tar.extractfile(item)) else b"") for item in tar]


def rewritten(path: Path, target: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """A copy of a bundle with other members."""
    found = members(path)
    change(found)
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for item, data in found:
            if item.isreg():
                item.size = len(data)
            tar.addfile(item, io.BytesIO(data))
    return target


def resigned(
    shared: Tutorial, path: Path, target: Path, change: Callable[[dict[str, Any]], object], by: SiteKey | None = None
) -> Path:
    """A copy whose index says something else, signed by the trusted maker again, or by another one."""
    with shared.site() as site:
        key = by or KeyStore(site.home).read()

    def sign(found: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        index = json.loads(found[1][1])
        if by is not None:
            index["maker"] = by.fingerprint
        change(index)
        data = to_json(index)
        found[0] = (found[0][0], write_signature(key.public, key.sign(signed_bytes(data))))
        found[1] = (found[1][0], data)

    return rewritten(path, target, sign)


def replaced(found: list[tuple[tarfile.TarInfo, bytes]], number: int, data: bytes) -> None:
    """Exchange the content of a member."""
    found[number] = (found[number][0], data)


def unsigned(path: Path, target: Path) -> Path:
    """A copy that nobody signed, and that says so."""

    def change(found: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        del found[0]
        found[0] = (found[0][0], to_json({**json.loads(found[0][1]), "maker": ""}))

    return rewritten(path, target, change)


def made_at(moment: str) -> Callable[[dict[str, Any]], object]:
    """The change of an index that gives it another time."""
    return lambda index: index.update(created_at=moment)

"""What loaded bundles said, kept by profile: the read-only copy of a server's metadata that ``--offline`` works from.

``bundles/PROFILE/SHA256.json`` in the home is the index of a bundle, named by its SHA-256; ``SHA256.older`` beside it
says that it was loaded although a newer one was there. A profile has one bundle of each maker for each benchmark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from medperf_core.entities import Container, IdentityKind, ImageIdentity, SourceKind
from medperf_core.entities.checks import SHA256_HEX
from medperf_core.errors import MedperfError, NotFoundError
from medperf_core.plugin.isolation import OLDER_BUNDLE, UNSIGNED
from medperf_core.site.atomic import write_atomically
from medperf_core.site.bundle_index import INDEX_LIMIT, BundleImage, BundleIndex, read_index
from medperf_core.site.home import Home, check_name, remove_tree

EMBEDDED = "embedded"
SHORT = 12
"""Digits of a name that suffice on a command line."""
_KINDS = {SourceKind.ARCHIVE: IdentityKind.ARCHIVE, SourceKind.SIF: IdentityKind.SIF}


@attrs.frozen
class LoadedBundle:
    """A bundle that was loaded.

    Attributes:
        name: the SHA-256 of its index.
        profile: for which it was loaded.
        older: whether it was loaded although a newer one was there.
    """

    name: str
    profile: str
    index: BundleIndex
    older: bool = False

    @property
    def waivers(self) -> tuple[str, ...]:
        """What the person at the site waives who uses it."""
        return (*(() if self.index.maker else (UNSIGNED,)), *((OLDER_BUNDLE,) if self.older else ()))

    @property
    def record(self) -> dict[str, str]:
        """What the record of a run says of it."""
        return {"bundle": self.name, "maker": self.index.maker or "not signed", "made": self.index.created_at}

    def __str__(self) -> str:
        by = self.index.maker or "nobody, for it is not signed"
        return f"bundle {self.name[:SHORT]} (benchmark {self.index.benchmark}, by {by})"


@attrs.frozen
class DamagedBundle:
    """A loaded bundle whose index can no longer be used.

    Attributes:
        name: the SHA-256 that its index had.
        profile: for which it was loaded.
        why: for people.
    """

    name: str
    profile: str
    why: str


class BundleStore:
    """The loaded bundles of a home."""

    def __init__(self, home: Home) -> None:
        self._root = home.bundles_dir

    def add(self, profile: str, index: bytes, *, older: bool = False) -> LoadedBundle:
        """Keep an index that was verified, in place of the one of the same server, maker and benchmark.

        Args:
            older: it is older than that one.
        """
        place = self._folder(profile)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = hashlib.sha256(index).hexdigest()
        known = self.list(profile)
        file, mark = place / f"{name}.json", _older(place, name)
        if older:  # first: without it, nobody would know
            write_atomically(mark, b"", mode=0o600)
        elif not file.exists():  # what a kill left
            mark.unlink(missing_ok=True)
        write_atomically(file, index, mode=0o600)
        added = self._read(file)
        if isinstance(added, DamagedBundle):
            raise NotFoundError(f"The bundle {name[:SHORT]} was changed while it was loaded.", hint="Load it again.")
        for bundle in known:
            if bundle.name != name and same_subject(bundle.index, added.index):
                self._forget(profile, bundle.name)
        return added

    def list(self, profile: str | None = None) -> list[LoadedBundle]:
        """Those of a profile, or all, that can be read; the newest first."""
        found = [each for each in self._all(profile) if isinstance(each, LoadedBundle)]
        return sorted(found, key=lambda bundle: (bundle.index.made, bundle.name), reverse=True)

    def damaged(self, profile: str | None = None) -> Sequence[DamagedBundle]:
        """Those of a profile, or all, that cannot be used any more."""
        return [each for each in self._all(profile) if isinstance(each, DamagedBundle)]

    def files(self) -> frozenset[str]:
        """SHA-256 of all files that loaded bundles brought, as far as they can be read."""
        return frozenset(entry.sha256 for bundle in self.list() for entry in bundle.index.entries)

    def remove(self, profile: str, name: str) -> LoadedBundle | DamagedBundle:
        """Forget a bundle; its files stay in the cache until they are freed.

        Args:
            name: the first digits of its name, at least eight, or all.

        Raises:
            NotFoundError: there is none of this name, or more than one.
        """
        known = [file for file in self._files(profile) if len(name) >= 8 and file.stem.startswith(name)]
        if len(known) != 1:
            raise NotFoundError(
                f"The profile {profile!r} has no bundle {name[:64]!r}, or more than one.",
                hint="Give at least its first 8 digits; see: medperf bundle ls",
            )
        found = self._read(known[0])
        self._forget(profile, found.name)
        return found

    def _forget(self, profile: str, name: str) -> None:
        remove_tree(self._folder(profile) / f"{name}.json")
        remove_tree(_older(self._folder(profile), name))

    def _folder(self, profile: str) -> Path:
        return self._root / check_name(profile, "a profile")

    def _files(self, profile: str | None) -> Iterator[Path]:
        folders = [self._folder(profile)] if profile else sorted(self._root.glob("*"))
        for folder in folders:
            for file in sorted(folder.glob("*.json")):
                if SHA256_HEX.fullmatch(file.stem):
                    yield file

    def _all(self, profile: str | None) -> Iterator[LoadedBundle | DamagedBundle]:
        return map(self._read, self._files(profile))

    def _read(self, file: Path) -> LoadedBundle | DamagedBundle:
        name, profile = file.stem, file.parent.name
        try:
            with file.open("rb") as stream:
                data = stream.read(INDEX_LIMIT + 1)
            if hashlib.sha256(data).hexdigest() == name:
                older = _older(file.parent, name).exists()
                return LoadedBundle(name, profile, read_index(data, name[:SHORT]), older)
            why = "its index is not what was loaded"
        except OSError as error:
            why = f"its index cannot be read: {error.strerror or error}"
        except MedperfError as error:
            why = str(error).rstrip(".")
        return DamagedBundle(name, profile, why)


def _older(folder: Path, name: str) -> Path:
    return folder / f"{name}.older"


def same_subject(one: BundleIndex, other: BundleIndex) -> bool:
    """Whether one of two bundles takes the place of the other."""
    return (one.server, one.maker, one.benchmark) == (other.server, other.maker, other.benchmark)


def server_id(address: str) -> str:
    """What a bundle calls a server: its address; for a registry in a file, nothing that tells where the file is."""
    scheme, _, rest = address.partition(":")
    return f"{scheme}:{hashlib.sha256(rest.encode()).hexdigest()[:16]}" if scheme == EMBEDDED else address


def bundled_images(
    bundles: Iterable[LoadedBundle], container: Container
) -> Iterator[tuple[LoadedBundle, BundleImage, ImageIdentity]]:
    """The image files of a container that bundles brought which describe it so, SIFs first: they need no conversion."""
    known = list(bundles)
    for kind in (SourceKind.SIF, SourceKind.ARCHIVE):
        for bundle in known:
            for image in bundle.index.images:
                if (image.container, image.kind) == (container.id, kind) and container in bundle.index.containers:
                    yield bundle, image, ImageIdentity(_KINDS[kind], f"sha256:{image.sha256}")

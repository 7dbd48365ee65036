"""What loaded bundles said, kept by profile: the read-only copy of a server's metadata that ``--offline`` works from.

``bundles/PROFILE/SHA256.json`` in the home is the index of a bundle, as it was signed, named by its SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from medperf_core.entities import Container, IdentityKind, ImageIdentity, SourceKind
from medperf_core.entities.checks import SHA256_HEX
from medperf_core.errors import ConfigurationError, MedperfError, NotFoundError
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
    """

    name: str
    profile: str
    index: BundleIndex


class BundleStore:
    """The loaded bundles of a home."""

    def __init__(self, home: Home) -> None:
        self._root = home.bundles_dir

    def add(self, profile: str, index: bytes) -> LoadedBundle:
        """Keep an index that was verified."""
        place = self._folder(profile)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = hashlib.sha256(index).hexdigest()
        write_atomically(place / f"{name}.json", index, mode=0o600)
        return LoadedBundle(name, profile, read_index(index, name[:SHORT]))

    def list(self, profile: str | None = None) -> list[LoadedBundle]:
        """Those of a profile, or all; the newest first.

        Raises:
            ConfigurationError: one was changed.
        """
        found = [self._read(file) for file in self._files(profile)]
        return sorted(found, key=lambda bundle: (bundle.index.created_at, bundle.name), reverse=True)

    def files(self) -> frozenset[str]:
        """SHA-256 of all files that loaded bundles brought."""
        return frozenset(entry.sha256 for bundle in self.list() for entry in bundle.index.entries)

    def remove(self, profile: str, name: str) -> LoadedBundle:
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
                hint="See: medperf bundle ls",
            )
        bundle = self._read(known[0])
        remove_tree(known[0])
        return bundle

    def _folder(self, profile: str) -> Path:
        return self._root / check_name(profile, "a profile")

    def _files(self, profile: str | None) -> Iterator[Path]:
        folders = [self._folder(profile)] if profile else sorted(self._root.glob("*"))
        for folder in folders:
            for file in sorted(folder.glob("*.json")):
                if SHA256_HEX.fullmatch(file.stem):
                    yield file

    def _read(self, file: Path) -> LoadedBundle:
        try:
            with file.open("rb") as stream:
                data = stream.read(INDEX_LIMIT + 1)
            if hashlib.sha256(data).hexdigest() == file.stem:
                return LoadedBundle(file.stem, file.parent.name, read_index(data, file.stem[:SHORT]))
            why = "it is not what was loaded"
        except (OSError, MedperfError) as error:
            why = str(error).rstrip(".")
        raise ConfigurationError(
            f"The loaded bundle {file} cannot be used: {why}.", hint="Remove the file, and load the bundle again."
        )


def server_id(address: str) -> str:
    """What a bundle calls a server: its address; for a registry in a file, nothing that tells where the file is."""
    scheme, _, rest = address.partition(":")
    return f"{scheme}:{hashlib.sha256(rest.encode()).hexdigest()[:16]}" if scheme == EMBEDDED else address


def bundled_images(
    bundles: Iterable[LoadedBundle], container: Container
) -> Iterator[tuple[BundleImage, ImageIdentity]]:
    """The image files of a container that bundles brought, SIFs first: they need no conversion."""
    for kind in (SourceKind.SIF, SourceKind.ARCHIVE):
        for bundle in bundles:
            for image in bundle.index.images:
                if (image.container, image.kind) == (container.id, kind) and container in bundle.index.containers:
                    yield image, ImageIdentity(_KINDS[kind], f"sha256:{image.sha256}")

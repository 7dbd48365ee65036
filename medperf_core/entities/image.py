"""Where a container image comes from, and what it verifiably is."""

from __future__ import annotations

import re
from enum import StrEnum

import attrs

from medperf_core.errors import InvalidEntityError


class IdentityKind(StrEnum):
    """What a digest was taken of. Digests of different kinds never equal each other, even for one image."""

    CONFIG = "config"
    """SHA-256 of an OCI image's config: the image ID of classic Docker stores."""
    MANIFEST = "manifest"
    """SHA-256 of an OCI manifest or index: what a registry calls the image's digest."""
    ARCHIVE = "archive"
    """SHA-256 of a ``docker save`` file."""
    SIF = "sif"
    """SHA-256 of a Singularity image file."""
    SOURCE = "source"
    """Path-aware SHA-256 of a source tree (``medperf_core.plugin.digest.tree_digest``)."""


_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _check_digest(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise InvalidEntityError(f"The image digest {value!r} is not of the form sha256:<64 hexadecimal digits>.")


@attrs.frozen(order=True)
class ImageIdentity:
    """A digest together with what it was taken of.

    Attributes:
        kind: what was hashed.
        digest: ``sha256:`` and 64 lower-case hexadecimal digits.
    """

    kind: IdentityKind = attrs.field(converter=IdentityKind)
    digest: str = attrs.field(validator=_check_digest)

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> ImageIdentity:
        """Read ``KIND:sha256:HEX``, the form that ``str()`` writes.

        Raises:
            InvalidEntityError: it is not of that form.
        """
        kind, _, digest = text.partition(":")
        if kind not in set(IdentityKind):
            known = ", ".join(IdentityKind)
            raise InvalidEntityError(f"{text!r} is not an image identity: it must start with one of {known}.")
        return cls(kind=IdentityKind(kind), digest=digest)


class SourceKind(StrEnum):
    """The ways in which an image can be had."""

    REGISTRY = "registry"
    """``location`` is a registry reference such as ``host:5000/name:tag`` or ``name@sha256:...``."""
    ARCHIVE = "archive"
    """``location`` is the path of a ``docker save`` file on this machine."""
    SIF = "sif"
    """``location`` is the path of a Singularity image file on this machine."""
    TREE = "tree"
    """``location`` is the path of a source tree: run as it is by ``process``, built by container engines."""


@attrs.frozen
class ImageSource:
    """Where a runner finds an image.

    Attributes:
        kind: how ``location`` is to be read.
        location: a registry reference, or an absolute path on this machine.
        dockerfile: for a tree, the build file relative to it; None if no engine can build it.
        name: for a tree, the image name that its manifest gives to the built image; informative only.
    """

    kind: SourceKind = attrs.field(converter=SourceKind)
    location: str
    dockerfile: str | None = None
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.kind.value} {self.location}"

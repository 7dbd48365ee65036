"""A registered container (an MLCube is one format of it)."""

from __future__ import annotations

from typing import Any

import attrs

from medperf_core.entities import checks
from medperf_core.entities.image import IdentityKind, ImageIdentity
from medperf_core.entities.registry import Entity, State
from medperf_core.errors import InvalidEntityError


def _manifest_content(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, dict):
        raise InvalidEntityError("container_config must be the content of a manifest: a map.")
    checks.json_value(instance, attribute, value)


_KINDS = {"DockerArchive": IdentityKind.ARCHIVE, "SingularityFile": IdentityKind.SIF}


@attrs.frozen(kw_only=True)
class Container(Entity):
    """A container of a data preparator, a model or an evaluator.

    Attributes:
        name: unique on the server; at most 128 characters. Never used as a path.
        container_config: the manifest's content.
        parameters_config: the parameters file's content; None if it has none.
        image_hash: digest of its image, ``sha256:...``; its kind is in ``images()``.
        additional_files_tarball_url, additional_files_tarball_hash: both or neither ("").
        state: DEVELOPMENT or OPERATION.
        user_metadata: JSON that the owner may change at any time.
    """

    name: str = attrs.field(validator=checks.text(128, blank=False))
    container_config: dict[str, Any] = attrs.field(validator=_manifest_content)
    parameters_config: dict[str, Any] | None = attrs.field(default=None, validator=checks.json_value)
    image_hash: str = attrs.field(default="", validator=checks.text(100))
    additional_files_tarball_url: str = attrs.field(default="", validator=checks.text(256))
    additional_files_tarball_hash: str = attrs.field(default="", validator=checks.sha256)
    state: State = attrs.field(default=State.DEVELOPMENT, converter=State)
    user_metadata: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)

    def __attrs_post_init__(self) -> None:
        if bool(self.additional_files_tarball_url) != bool(self.additional_files_tarball_hash):
            raise InvalidEntityError(
                f"Container {self.name!r}: the URL and the hash of its additional files go together; one is missing."
            )

    @property
    def tasks(self) -> frozenset[str]:
        """The names of its tasks, as far as the manifest's content tells."""
        tasks = self.container_config.get("tasks")
        return frozenset(map(str, tasks)) if isinstance(tasks, dict) else frozenset()

    def images(self) -> tuple[ImageIdentity, ...]:
        """The identities of its image that were recorded at submission, each with its kind.

        The public client records a digest only; its kind is then told by the manifest's ``container_type``.

        Raises:
            InvalidEntityError: the record is malformed.
        """
        recorded = self.metadata.get("images", [])
        if not isinstance(recorded, list):
            raise InvalidEntityError(f"Container {self.name!r}: metadata.images must be a list.")
        if not recorded and self.image_hash:
            kind = _KINDS.get(str(self.container_config.get("container_type")), IdentityKind.MANIFEST)
            return (ImageIdentity(kind, f"sha256:{self.image_hash.removeprefix('sha256:')}"),)
        return tuple(ImageIdentity.parse(str(item)) for item in recorded)

    def sources(self) -> dict[str, dict[str, str]]:
        """Where its files are: for each of ``mlcube``, ``parameters``, ``additional``, ``image`` and ``project``
        that it has, a map with ``url`` and ``sha256``.

        Raises:
            InvalidEntityError: the record is malformed.
        """
        recorded = self.metadata.get("sources", {})
        if not isinstance(recorded, dict):
            raise InvalidEntityError(f"Container {self.name!r}: metadata.sources must be a map.")
        sources: dict[str, dict[str, str]] = {}
        for part, entry in recorded.items():
            if not (
                isinstance(entry, dict)
                and isinstance(entry.get("url"), str)
                and checks.SHA256_HEX.fullmatch(str(entry.get("sha256")))
            ):
                raise InvalidEntityError(f"Container {self.name!r}: metadata.sources.{part} needs a url and a sha256.")
            sources[str(part)] = {"url": entry["url"], "sha256": entry["sha256"]}
        return sources

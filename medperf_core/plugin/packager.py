"""The packager seam: what a folder or manifest means as a container."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

import attrs

from medperf_core.entities.spec import ContainerSpec


@attrs.frozen
class Manifest:
    """A manifest's content and where it stands.

    Attributes:
        data: the content, loaded from YAML safely.
        base: folder that relative paths in it start from; None if it came from a server and has no folder.
        name: what errors call it: a path or an entity.
        lines: line numbers by place, such as ``tasks.infer.parameters``; may be empty.
        project: folder that stands for the manifest's project (``process.project``, and a build context that is
            the same folder), where it was fetched apart from the manifest; None to look for it from ``base``.
    """

    data: dict[str, Any]
    base: Path | None
    name: str
    lines: dict[str, int] = attrs.field(factory=dict)
    project: Path | None = None

    def at(self, place: str) -> str:
        """``place`` with its line number where it is known, for error messages."""
        line = self.lines.get(place)
        return f"{place} (line {line})" if line else place


@attrs.frozen
class LocalFiles:
    """The files of a container that lies in a folder here.

    Attributes:
        manifest: the manifest file.
        parameters: the parameters file; None if there is none.
        additional_files: folder of additional files; None if there is none or it is empty.
    """

    manifest: Path
    parameters: Path | None
    additional_files: Path | None


class Packager(abc.ABC):
    """Reads one manifest format."""

    file_names: tuple[str, ...]
    """Names that its manifests have in a folder, the preferred one first, such as ``("mlcube.yaml",)``."""

    @abc.abstractmethod
    def recognizes(self, data: dict[str, Any]) -> bool:
        """Whether this content is of this format."""

    @abc.abstractmethod
    def read(self, manifest: Manifest) -> ContainerSpec:
        """The canonical description of what the manifest says.

        Every key is understood, carried along in ``ContainerSpec.carried``, or refused. What the core offers to a
        task (``roles.volume_rules``) has the direction that the core gave it, or the manifest is refused. Paths of this
        machine are absolute and lie in the manifest's folder, beside it, or in ``Manifest.project``; there are none
        where the manifest has neither.

        Raises:
            InvalidEntityError: it breaks the format's rules; all problems are listed with places and lines.
        """

    @abc.abstractmethod
    def files(self, manifest: Path) -> LocalFiles:
        """The files that belong to a manifest on this machine, by the format's conventions."""

    def template(self, data: dict[str, Any], name: str) -> dict[str, Any]:
        """A manifest's content for a new container called ``name`` whose project stands in ``../project``.

        The default changes the name only; a format that says where its project or image is overrides it.
        """
        return {**data, "name": name}

"""Names of images in registries."""

from __future__ import annotations

import re

import attrs

from medperf_core.errors import InvalidEntityError

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_PART}(?:/{_PART})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?",
    re.ASCII,
)


@attrs.frozen
class Reference:
    """A registry reference in its parts; ``tag`` is ``latest`` where neither a tag nor a digest is given."""

    name: str
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``[HOST[:PORT]/]NAME[:TAG][@sha256:HEX]``.

        Raises:
            InvalidEntityError: it is not of that form.
        """
        found = _REFERENCE.fullmatch(text)
        if not found or len(text) > 512:
            raise InvalidEntityError(
                f"{text[:200]!r} is not an image reference.",
                hint="It must look like HOST:PORT/NAME:TAG or NAME@sha256:HEX.",
            )
        tag = found["tag"] or (None if found["digest"] else "latest")
        return cls(found["name"], tag, found["digest"])

    def at(self, digest: str) -> str:
        """The same repository's image with this digest."""
        return f"{self.name}@{digest}"

    @property
    def local(self) -> str:
        """The name under which a local image of this reference would be found."""
        return self.at(self.digest) if self.digest else f"{self.name}:{self.tag}"

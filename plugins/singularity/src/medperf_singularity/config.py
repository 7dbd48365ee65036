"""What an image says of how it is run. Images come from strangers: every field is checked and bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import attrs

from medperf_core.errors import VerificationError

WORDS_LIMIT = 4096
WORD_LIMIT = 128 << 10
TOTAL_LIMIT = 1 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*", re.ASCII)
RUNSCRIPT = "/.singularity.d/runscript"
"""What `run` starts in a SIF; the entrypoint of images that were not made from an OCI image."""


@attrs.frozen
class ImageConfig:
    """How an image is run.

    Attributes:
        entrypoint: program and arguments that always come first.
        cmd: arguments, or program and arguments, where nobody gives others.
        env: variables in the image's order.
        working_dir: absolute path; "" for the root.
        user: as the image writes it: name or number, also with ``:`` and a group; "" for root.
        architecture: such as ``amd64``; "" if it does not say.
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = attrs.field(factory=dict)
    working_dir: str = ""
    user: str = ""
    architecture: str = ""

    @classmethod
    def from_oci(cls, document: Any, name: str) -> ImageConfig:
        """Read an OCI image configuration (or Docker's, which has the same fields).

        Source: OCI Image Format Specification, "Image Configuration".

        Raises:
            VerificationError: a field is of another type than it must be, or too long; names the image.
        """
        try:
            if not isinstance(document, dict):
                raise ValueError("it is no object")
            part = document.get("config") or {}
            if not isinstance(part, dict):
                raise ValueError("config is no object")
            found = cls(
                entrypoint=_words(part.get("Entrypoint"), "Entrypoint"),
                cmd=_words(part.get("Cmd"), "Cmd"),
                env=_variables(_words(part.get("Env"), "Env")),
                working_dir=_working_dir(part.get("WorkingDir")),
                user=_text(part.get("User"), "User", 256),
                architecture=_text(document.get("architecture"), "architecture", 64),
            )
            found._check_size()
        except (ValueError, RecursionError) as error:
            raise VerificationError(f"The configuration of the image {name} cannot be used: {error}.") from error
        return found

    @classmethod
    def read_oci(cls, data: bytes, name: str) -> ImageConfig:
        """``from_oci`` of the document's bytes."""
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise VerificationError(f"The configuration of the image {name} is not JSON: {error}.") from error
        return cls.from_oci(document, name)

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` reads."""
        return {
            "entrypoint": list(self.entrypoint),
            "cmd": list(self.cmd),
            "env": dict(self.env),
            "working_dir": self.working_dir,
            "user": self.user,
            "architecture": self.architecture,
        }

    @classmethod
    def from_json(cls, document: Any) -> ImageConfig:
        """What ``to_json`` wrote.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(document, dict) or set(document) != {field.name for field in attrs.fields(cls)}:
            raise ValueError("it has other fields than an image configuration")
        env = document["env"]
        if not isinstance(env, dict):
            raise ValueError("env is no object")
        found = cls(
            entrypoint=_words(document["entrypoint"], "entrypoint"),
            cmd=_words(document["cmd"], "cmd"),
            env=_variables(tuple(f"{name}={value}" for name, value in env.items())),
            working_dir=_working_dir(document["working_dir"]),
            user=_text(document["user"], "user", 256),
            architecture=_text(document["architecture"], "architecture", 64),
        )
        found._check_size()
        return found

    def _check_size(self) -> None:
        if len(json.dumps(self.to_json())) > TOTAL_LIMIT:
            raise ValueError("it is larger than any real one")


def _text(value: Any, what: str, limit: int) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > limit or any(char in value for char in "\0\n\r"):
        raise ValueError(f"{what} is no text of one line with at most {limit} characters")
    value.encode()  # raises ValueError for halves of characters, which no system call takes
    return value


def _words(value: Any, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > WORDS_LIMIT:
        raise ValueError(f"{what} is no list of at most {WORDS_LIMIT} words")
    for word in value:
        if not isinstance(word, str) or len(word) > WORD_LIMIT or "\0" in word:
            raise ValueError(f"{what} holds something that is no word, or a very long one")
        word.encode()
    return tuple(value)


def _variables(words: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not _NAME.fullmatch(name) or len(name) > 256:
            raise ValueError(f"Env holds {word[:80]!r}, which is not of the form NAME=VALUE")
        found[name] = value
    return found


def _working_dir(value: Any) -> str:
    text = _text(value, "WorkingDir", 4096)
    if text and not text.startswith("/"):
        text = f"/{text}"  # Docker reads it so too
    return text

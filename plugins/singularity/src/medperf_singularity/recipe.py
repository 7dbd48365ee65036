"""Reads a Dockerfile into what can be assembled without running anything of it.

A build step that runs a program would run on this machine, outside of the guarantees that tasks are given; engines of
this kind have no daemon that could keep it apart. So ``RUN`` is refused: files are copied onto a base image, and how
it is run is written down.

Format: the Dockerfile reference (https://docs.docker.com/reference/dockerfile/).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping

import attrs

from medperf_core.errors import ExecutionError, InvalidEntityError
from medperf_core.plugin.dockerfile import Instruction, instructions, substitute
from medperf_singularity.config import ImageConfig

_WITHOUT_EFFECT = frozenset({"LABEL", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "MAINTAINER", "ONBUILD", "VOLUME"})
"""Instructions that change nothing for a task: it has no ports, and its volumes are the core's."""
_INSTEAD = (
    "Build it with Docker (--platform docker) and give the manifest the built image: a registry reference with its "
    "digest, or a file that `docker save` wrote. Where you trust the build file, `spython recipe Dockerfile image.def` "
    "and `apptainer build --fakeroot image.sif image.def` make a SIF of it."
)


@attrs.frozen
class Copy:
    """Files of the source tree that go into the image.

    Attributes:
        sources: relative paths or patterns.
        target: absolute path in the image; with ``/`` at its end a folder in any case.
        mode: permissions of the files; None for those of the source, readable for all.
    """

    sources: tuple[str, ...]
    target: str
    mode: int | None = None


@attrs.frozen
class Recipe:
    """What a Dockerfile makes.

    Attributes:
        base: the image that it starts from, as written, variables replaced.
        copies: in order.
        configure: makes the configuration of the image from that of its base.
    """

    base: str
    copies: tuple[Copy, ...]
    configure: Callable[[ImageConfig], ImageConfig]


def read_recipe(text: str, arguments: Mapping[str, str]) -> Recipe:
    """Read a Dockerfile.

    Args:
        arguments: build arguments by name.

    Raises:
        ExecutionError: it has a step that only a container engine with a builder can do; says which.
        InvalidEntityError: it is no Dockerfile.
    """
    reader = _Reader(arguments)
    for step in instructions(text):
        reader.take(step)
    if reader.base is None:
        raise InvalidEntityError("The build file has no FROM.")
    return Recipe(reader.base, tuple(reader.copies), reader.configure)


class _Reader:
    """Takes the instructions in order and keeps what they come to."""

    def __init__(self, arguments: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._values: dict[str, str] = {}
        self._env: dict[str, str] = {}
        self._working_dir = ""
        self._user: str | None = None
        self._entrypoint: tuple[str, ...] | None = None
        self._cmd: tuple[str, ...] | None = None
        self._shell: tuple[str, ...] = ("/bin/sh", "-c")
        self.base: str | None = None
        self.copies: list[Copy] = []

    def take(self, step: Instruction) -> None:
        if step.name in _WITHOUT_EFFECT:
            return
        if step.name not in ("FROM", "ARG") and self.base is None:
            raise InvalidEntityError(f"Line {step.line} of the build file has {step.name} before FROM.")
        method: Callable[[Instruction], None] | None = getattr(self, f"_take_{step.name.lower()}", None)
        if method is None:
            raise _refused(step, f"has {step.name[:20]}")
        method(step)

    def configure(self, base: ImageConfig) -> ImageConfig:
        """The configuration of the image. A new entrypoint forgets the base's command, as in Docker."""
        cmd = base.cmd if self._entrypoint is None else ()
        found = attrs.evolve(
            base,
            env={**base.env, **self._env},
            working_dir=posixpath.normpath(posixpath.join(base.working_dir or "/", self._working_dir)),
            user=base.user if self._user is None else self._user,
            entrypoint=base.entrypoint if self._entrypoint is None else self._entrypoint,
            cmd=cmd if self._cmd is None else self._cmd,
        )
        try:
            return ImageConfig.from_json(found.to_json())  # the build file is as much a stranger's as an image is
        except ValueError as error:
            raise InvalidEntityError(f"The build file asks for what no image can have: {error}.") from error

    def _text(self, text: str) -> str:
        return substitute(text, {**self._values, **self._env})

    def _take_arg(self, step: Instruction) -> None:
        for word in step.words():
            name, equals, default = word.partition("=")
            known = self._values.get(name, "")
            self._values[name] = self._arguments.get(name, self._text(default) if equals else known)

    def _take_from(self, step: Instruction) -> None:
        words = [self._text(word) for word in step.words()]
        if self.base is not None:
            raise _refused(step, "begins a second stage")
        if len(words) not in (1, 3) or "$" in words[0] or words[0] == "scratch":
            raise _refused(step, f"starts from {' '.join(words)[:100] or 'nothing'}")
        self.base = words[0]

    def _take_copy(self, step: Instruction) -> None:
        foreign = [option for option in step.options if not option.startswith(("--chmod=", "--chown=", "--link"))]
        if foreign:
            raise _refused(step, f"copies with {foreign[0][:80]}")
        if "<<" in step.rest:
            raise _refused(step, "holds a here-document")
        *sources, target = (self._text(word) for word in step.words() or ("",))
        if not sources:
            raise InvalidEntityError(f"Line {step.line} of the build file copies nothing.")
        for source in sources:
            if ".." in source.split("/"):
                raise InvalidEntityError(f"Line {step.line} of the build file copies {source[:100]!r} from elsewhere.")
        if not target.startswith("/"):
            if not self._working_dir.startswith("/"):
                raise _refused(step, "copies to a place relative to the base image's own folder")
            target = posixpath.join(self._working_dir, target)
        folder = len(sources) > 1 or target.endswith(("/", "/."))
        self.copies.append(Copy(tuple(sources), posixpath.normpath(target) + ("/" if folder else ""), _mode(step)))

    def _take_add(self, step: Instruction) -> None:
        for word in map(self._text, step.words()[:-1]):
            if "://" in word or word.startswith("git@") or word.endswith((".tar", ".gz", ".xz", ".bz2", ".tgz")):
                raise _refused(step, f"adds {word[:80]}, which would have to be fetched or unpacked")
        self._take_copy(step)

    def _take_env(self, step: Instruction) -> None:
        words = step.words()
        if words and "=" not in words[0]:  # the older form: one name, and the rest is its value
            name, _, value = step.rest.partition(" ")
            pairs = [(name, value.strip())]
        else:
            pairs = [(name, value) for name, _, value in (word.partition("=") for word in words)]
        self._env.update({name: self._text(value) for name, value in pairs})

    def _take_workdir(self, step: Instruction) -> None:
        self._working_dir = posixpath.join(self._working_dir, self._text(step.rest.strip("\"'")))

    def _take_user(self, step: Instruction) -> None:
        self._user = self._text(step.rest)

    def _take_entrypoint(self, step: Instruction) -> None:
        self._entrypoint = self._command(step)
        if self._cmd is None:
            self._cmd = ()

    def _take_cmd(self, step: Instruction) -> None:
        self._cmd = self._command(step)

    def _take_shell(self, step: Instruction) -> None:
        self._shell = step.listed() or ()
        if not self._shell:
            raise InvalidEntityError(f"Line {step.line} of the build file has a SHELL that is no list of words.")

    def _command(self, step: Instruction) -> tuple[str, ...]:
        listed = step.listed()
        return listed if listed is not None else (*self._shell, step.rest)

    def _take_run(self, step: Instruction) -> None:
        raise _refused(step, "runs a program (RUN)")


def _mode(step: Instruction) -> int | None:
    words = [option.removeprefix("--chmod=") for option in step.options if option.startswith("--chmod=")]
    if not words:
        return None
    if not re.fullmatch(r"0?[0-7]{3}", words[-1]):
        raise _refused(step, f"copies with --chmod={words[-1][:80]}")
    return int(words[-1], 8)


def _refused(step: Instruction, what: str) -> ExecutionError:
    return ExecutionError(
        f"Line {step.line} of the build file {what}, which is not done on this platform: nothing that would have to be "
        "run, fetched or unpacked goes into an image here.",
        hint=_INSTEAD,
    )

"""What both manifest formats have in common: reading sections strictly, checking values, paths and volumes."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import stat
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import attrs

from medperf_core.entities.checks import TASK_OR_LABEL
from medperf_core.entities.image import ImageSource, SourceKind
from medperf_core.entities.roles import TASKS, VolumeKind, VolumeRule
from medperf_core.errors import InvalidEntityError
from medperf_core.plugin import LocalFiles, Manifest

WORKSPACE = "workspace"
PARAMETERS_NAME = "parameters.yaml"
ADDITIONAL_FOLDER = "additional_files"
MAX_PROBLEMS = 20
MAX_NAME, MAX_DESCRIPTION, MAX_WORDS, MAX_LABELS = 256, 10_000, 1000, 200

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GPU_VARIABLES = re.compile(r"NVIDIA_.*|CUDA_VISIBLE_DEVICES|(HIP|ROCR)_VISIBLE_DEVICES")
_SHM_SIZE = re.compile(r"(?=.*[1-9])[0-9]{1,12}(\.[0-9]{1,3})?[bkmgBKMG]?[bB]?")
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    r"(?:(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?/)?"
    rf"{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)
_UNEXPECTED = {
    "inputs": "parameters.inputs",
    "outputs": "parameters.outputs",
    "input_volumes": "parameters.inputs",
    "output_volumes": "parameters.outputs",
}


def shown(value: Any) -> str:
    """A value of a manifest for a message: quoted, without control characters, short."""
    text = repr(value if isinstance(value, (str, int, float)) else type(value).__name__)
    return text if len(text) <= 100 else text[:97] + "..."


@attrs.define
class Reading:
    """One manifest being read: collects what is wrong, what to say about it, and what is only carried along."""

    manifest: Manifest
    problems: list[str] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    carried: dict[str, Any] = attrs.field(factory=dict)

    def refuse(self, place: str, words: str) -> None:
        """Remember a problem at a place such as ``tasks.infer``; the line is added where it is known."""
        line = self.manifest.lines.get(place)
        steps = [step if _PLAIN_KEY.fullmatch(step) else shown(step) for step in place.split(".")]
        name = ".".join(steps) if len(place) <= 300 else shown(place)
        self.problems.append(f"{name}{f' (line {line})' if line else ''}: {words}")

    def note(self, words: str) -> None:
        """Remember something that the reader of the manifest should know; each sentence once."""
        if words not in self.notes:
            self.notes.append(words)

    def finish(self) -> None:
        """Raise what was refused.

        Raises:
            InvalidEntityError: with all problems.
        """
        if self.problems:
            more = len(self.problems) - MAX_PROBLEMS
            problems = self.problems[:MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
            raise InvalidEntityError(f"The manifest {self.manifest.name} cannot be used:", problems=problems)

    def section(
        self, value: Any, place: str, understood: Collection[str], carried: Collection[str] = ()
    ) -> dict[str, Any]:
        """The understood keys of a map that are there and not null.

        Keys in ``carried`` and keys that start with ``x-`` are kept by their place; any other key is refused.
        """
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse(place, f"must be a map, not {shown(value)}")
            return {}
        kept: dict[str, Any] = {}
        for key, item in value.items():
            inner = f"{place}.{key}" if place else key
            if key in understood:
                if item is not None:
                    kept[key] = item
            elif key in carried or key.startswith("x-"):
                self.carried[inner] = item
            else:
                self.refuse(inner, f"there is no such key here.{self._guess(key, understood, carried)}")
        return kept

    def _guess(self, key: str, understood: Collection[str], carried: Collection[str]) -> str:
        if len(self.problems) >= MAX_PROBLEMS:  # nobody reads further, and guessing takes time
            return ""
        names = [*understood, *carried]
        near = difflib.get_close_matches(key[:64], names, 1)
        if not near and _UNEXPECTED.get(key, "").split(".")[0] in names:
            near = [_UNEXPECTED[key]]
        if near:
            return f" Did you mean {near[0]}?"
        return f" Known are {', '.join(sorted(names))}; a key of your own begins with x-."

    def labels(self, value: Any, place: str, what: str) -> dict[str, Any]:
        """A map whose keys are names of tasks or labels of volumes; others are refused."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse(place, f"must be a map of {what}s, not {shown(value)}")
            return {}
        if len(value) > MAX_LABELS:
            self.refuse(place, f"has {len(value)} {what}s; at most {MAX_LABELS} are allowed")
            return {}
        kept: dict[str, Any] = {}
        for key, item in value.items():
            if TASK_OR_LABEL.fullmatch(key):
                kept[key] = item
            else:
                self.refuse(
                    f"{place}.{key}",
                    f"is not usable as the name of a {what}: letters, digits, '_', '-' and "
                    "'.' only, at most 64, a letter or '_' first",
                )
        return kept

    def text(
        self, section: Mapping[str, Any], key: str, place: str, maximum: int = MAX_NAME, *, lines: bool = False
    ) -> str:
        """A text of a section; "" if it is not there. Control characters are refused, except ends of lines."""
        value = section.get(key, "")
        if isinstance(value, str) and len(value) <= maximum and _is_clean(value, lines):
            return value
        self.refuse(
            f"{place}.{key}" if place else key,
            f"must be text of at most {maximum} characters, without control characters, not {shown(value)}"
            f"{'; put it in quotes' if not isinstance(value, (str, dict, list)) else ''}",
        )
        return ""

    def title(self, top: Mapping[str, Any]) -> str:
        """The manifest's name, in one line."""
        return " ".join(self.text(top, "name", "", lines=True).split())

    def words(self, value: Any, place: str) -> tuple[str, ...]:
        """A command: a list of text, or a line that is split as a shell would."""
        if isinstance(value, str):
            try:
                value = shlex.split(value)
            except ValueError as error:
                self.refuse(place, f"has unbalanced quotes or a stray backslash ({error})")
                return ()
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            self.refuse(place, f"must be text or a list of text, not {shown(value)}; numbers go in quotes")
            return ()
        if len(value) > MAX_WORDS or any("\0" in word for word in value):
            self.refuse(place, f"must have at most {MAX_WORDS} words, none with a NUL character")
            return ()
        return tuple(value)

    def environment(self, value: Any, place: str) -> dict[str, str]:
        """A map of variables. Those that choose GPUs are left out with a note: that is the site's to choose."""
        if not isinstance(value, dict):
            self.refuse(place, f"must be a map of variables, not {shown(value)}")
            return {}
        variables: dict[str, str] = {}
        for name, item in value.items():
            if isinstance(item, bool) or not isinstance(item, (str, int, float)):
                self.refuse(f"{place}.{name}", f"must be text, not {shown(item)}; put it in quotes")
            else:
                self.variable(variables, name, str(item), place)
        return variables

    def variable(self, variables: dict[str, str], name: str, value: str, place: str) -> None:
        """Take one variable into ``variables``, or refuse it, or leave it out with a note."""
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            self.refuse(place, f"{shown(name)} cannot be a variable")
        elif _GPU_VARIABLES.fullmatch(name):
            self.note(f"{place}: {name} is ignored: the site chooses the GPUs of a task.")
        elif "${" in value:
            self.note(f"{place}: {name} is ignored: its value is to be taken from the machine ({shown(value)}).")
        else:
            variables[name] = value

    def shm_size(self, value: Any, place: str) -> str | None:
        """A size of /dev/shm such as ``2g``; a whole number means bytes."""
        size = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
        if _SHM_SIZE.fullmatch(size):
            return size
        self.refuse(place, f"must be a size such as 2g or 512m, not {shown(value)}")
        return None

    def reference(self, text: str, place: str) -> ImageSource | None:
        """The registry source that an image reference names."""
        if len(text) <= 500 and _REFERENCE.fullmatch(text):
            return ImageSource(SourceKind.REGISTRY, text)
        self.refuse(
            place,
            f"{shown(text)} is not an image reference such as registry.example.org/name:1.0 (the name in lower case)",
        )
        return None

    def folder(self, text: str) -> Path | None:
        """A folder of this machine that the manifest names, relative to its own folder; None if it is not here.

        Raises:
            ValueError: it does not lie in the manifest's folder or beside it; the message says so. A manifest
                that came from elsewhere must not get other folders of this machine packed, hashed or sent to an
                engine.
        """
        if text.startswith("/") or "\0" in text:
            raise ValueError(f"{shown(text)} is not a path relative to the manifest")
        if self.manifest.base is None:
            return None
        home = self.manifest.base.resolve()
        found = Path(os.path.realpath(home / text))  # unlike resolve(), it takes links that lead in a circle
        if not found.is_relative_to(home.parent) or found == Path(found.anchor):
            raise ValueError(f"{shown(text)} leads to a folder that is neither in the manifest's folder nor beside it")
        return found if is_there(found, stat.S_ISDIR) else None

    def inner_file(self, folder: Path, text: str) -> Path | None:
        """A file at a relative path below a folder; None if it is not there or leads out of the folder."""
        if text.startswith("/") or "\0" in text or not text:
            return None
        home = Path(os.path.realpath(folder))
        found = Path(os.path.realpath(home / text))
        return found if found.is_relative_to(home) and is_there(found, stat.S_ISREG) else None

    def check_volume(
        self, place: str, task: str, rule: VolumeRule | None, *, writable: bool, kind: VolumeKind | None
    ) -> None:
        """Refuse a volume that the manifest turns around, or calls a file where it is a folder.

        The core decides what a task may write. A manifest that says otherwise is wrong or means harm.
        """
        if rule is None:
            return
        if writable and not rule.writable:
            self.refuse(
                place,
                f"{rule.label} is an input of {task}; a manifest cannot make it an output, so that its "
                "data can never be written",
            )
        elif rule.writable and not writable:
            self.refuse(place, f"{rule.label} is an output of {task}; it cannot be an input")
        if kind is not None and kind is not rule.kind:
            self.refuse(place, f"{rule.label} of {task} is a {rule.kind.value}, not a {kind.value}")


def is_known(task: str) -> bool:
    """Whether a task is one of a role, so that the core knows all of its volumes."""
    return any(task in tasks for tasks in TASKS.values())


def _is_clean(text: str, lines: bool) -> bool:
    """Whether text has no character that does something to a terminal: control characters, changes of direction."""
    return not any(
        (unicodedata.category(char) == "Cc" and not (lines and char in "\n\r\t"))
        or unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        for char in text
    )


def is_there(path: Path, kind: Callable[[int], bool] = lambda mode: True) -> bool:
    """Whether something of this kind is at a path, which may be one that no file system can have."""
    try:
        return kind(path.stat().st_mode)
    except OSError:
        return False


def relative_parts(text: str) -> tuple[str, ...] | None:
    """The parts of a relative path without ``.`` steps; None if it is absolute or has ``..`` or odd characters."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or not text.isprintable():
        return None
    return path.parts


def local_files(manifest: Path) -> LocalFiles:
    """The files beside a manifest, by the field's layout: ``workspace/parameters.yaml`` and
    ``workspace/additional_files``. A manifest beside the folder ``mlcube`` shares that one's workspace, so that one
    container may be described in both formats."""
    workspace = manifest.parent / WORKSPACE
    if not workspace.is_dir():
        workspace = manifest.parent / "mlcube" / WORKSPACE
    parameters = workspace / PARAMETERS_NAME
    additional = workspace / ADDITIONAL_FOLDER
    return LocalFiles(
        manifest=manifest,
        parameters=parameters if parameters.is_file() else None,
        additional_files=additional if additional.is_dir() and any(additional.iterdir()) else None,
    )


def ordered(
    local: Sequence[ImageSource], remote: Sequence[ImageSource], *, local_first: bool
) -> tuple[ImageSource, ...]:
    """Sources in the order in which they are to be tried."""
    return (*local, *remote) if local_first else (*remote, *local)


def image_name(name: str) -> str:
    """An image reference for a new container that is called ``name``."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-")
    return f"{slug or 'container'}:latest"

"""Reading YAML that others wrote: manifests, parameters files, results and statistics of containers.

The reader takes less than YAML offers, on purpose. It makes plain JSON values only (a date stays the text that it
is), keeps sizes within limits, never follows an alias further than those limits, and refuses what a reader would
misunderstand in silence: keys given twice, keys that are not text, several documents in one file.
"""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import attrs
import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from medperf_core.entities import checks
from medperf_core.errors import InvalidEntityError, NotFoundError
from medperf_core.plugin.packager import Manifest

MAX_BYTES = 1 << 20
"""Size of a file or text."""
MAX_NODES = 100_000
"""Values and keys, with each alias counted as all that it stands for."""
MAX_TEXT = 4 * MAX_BYTES
"""Characters of all values and keys together, with aliases counted likewise."""
MAX_DEPTH = checks.MAX_JSON_DEPTH
MAX_KEY = 1024
MAX_NUMBER = 64
"""Characters of one number."""
MAX_PROBLEMS = 20
"""Problems that one error lists."""

_LINE_DEPTH, _LINE_KEY = 8, 64
_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = frozenset({_TAG + "str", _TAG + "timestamp", _TAG + "value", "!"})
_NUMBER_TAGS = frozenset({_TAG + "int", _TAG + "float"})
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = Resolver()
_CONSTRUCTOR = SafeConstructor()


def load_yaml(source: Path | bytes, name: str | None = None, *, follow_links: bool = False) -> Any:
    """The content of a YAML file or text as plain JSON values; None if it is empty.

    Args:
        source: a file, or the text itself in UTF-8.
        name: what errors call it; the path by default.
        follow_links: whether a path may be a symbolic link. Leave it off for what a container wrote, which could
            otherwise have any file of this machine read.

    Raises:
        NotFoundError: the file does not exist.
        InvalidEntityError: it is not YAML, or more than this reader takes; with line and column.
    """
    content, known_as = _read(source, name, follow_links)
    return _Builder(content, known_as).document()


def load_manifest(path: Path, name: str | None = None) -> Manifest:
    """The manifest in a file; its base is the file's folder.

    Raises:
        NotFoundError: the file does not exist.
        InvalidEntityError: see ``load_yaml``; or it does not hold a map.
    """
    content, known_as = _read(path, name, follow_links=True)
    return parse_manifest(content, name=known_as, base=path.absolute().parent)


def parse_manifest(content: bytes, *, name: str, base: Path | None = None) -> Manifest:
    """The manifest that ``content`` (UTF-8) is.

    Raises:
        InvalidEntityError: see ``load_yaml``; or it does not hold a map.
    """
    builder = _Builder(content, name)
    data = builder.document()
    if not isinstance(data, dict):
        what = "is empty" if data is None else f"holds a {_kind(data)}"
        raise InvalidEntityError(f"{name} {what}; a manifest is a map of keys and values.")
    return Manifest(data=data, base=base, name=name, lines=builder.lines)


def manifest_from_data(data: Mapping[str, Any], name: str, *, project: Path | None = None) -> Manifest:
    """The manifest that a server's ``container_config`` is: without lines and without a folder.

    Args:
        data: the content.
        name: what errors call it, such as ``container 12``.
        project: the folder that stands for its project, if it was fetched.

    Raises:
        InvalidEntityError: it is not plain JSON, or larger than the limits of this module.
    """
    content = dict(data)
    problem = checks.json_problem(content) or _oversize(content)
    if problem:
        raise InvalidEntityError(f"The manifest of {name} {problem}.")
    return Manifest(data=copy.deepcopy(content), base=None, name=name, project=project)


def _read(source: Path | bytes, name: str | None, follow_links: bool) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        known_as = name or "The YAML text"
        content = source
    else:
        known_as = name or str(source)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
        try:
            descriptor = os.open(source, flags)
        except FileNotFoundError:
            raise NotFoundError(f"The file {known_as} does not exist.") from None
        except OSError as error:
            link = not follow_links and Path(source).is_symlink()
            why = "it is a symbolic link" if link else error.strerror or "unknown reason"
            raise InvalidEntityError(f"The file {known_as} cannot be read: {why}.") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InvalidEntityError(f"{known_as} is not a file.")
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InvalidEntityError(f"{known_as} is larger than {MAX_BYTES >> 20} MiB.")
    return content, known_as


def _kind(value: Any) -> str:
    names = {dict: "map", list: "list", str: "text", bool: "yes/no value", int: "number", float: "number"}
    return names.get(type(value), type(value).__name__)


def _oversize(data: Any) -> str | None:
    """What is too large in plain JSON, in words. Only to be called on what is not nested too deeply."""
    nodes = text = 0
    waiting = [data]
    while waiting:
        value = waiting.pop()
        nodes += 1
        if isinstance(value, str):
            text += len(value)
        elif isinstance(value, dict):
            nodes += len(value)
            text += sum(map(len, value))
            if any(len(key) > MAX_KEY for key in value):
                return f"has a key of more than {MAX_KEY} characters"
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
        if nodes > MAX_NODES or text > MAX_TEXT:
            return f"has more than {MAX_NODES} values or {MAX_TEXT} characters"
    return None


@attrs.frozen
class _Place:
    """Where a value stands, put into words only for an error."""

    above: _Place | None = None
    step: str | int = ""

    def __str__(self) -> str:
        steps: list[str] = []
        place: _Place | None = self
        while place is not None and place.above is not None:
            shown = f"[{place.step}]" if isinstance(place.step, int) else place.step
            steps.append(shown if shown.isprintable() and len(shown) <= _LINE_KEY else repr(shown)[:_LINE_KEY])
            place = place.above
        return ".".join(reversed(steps)).replace(".[", "[") or "the top"


@attrs.frozen
class _Built:
    """A value with what it weighs when an alias stands for it."""

    value: Any
    nodes: int
    text: int
    height: int


class _Builder:
    """Makes plain values of YAML events, and counts while it does."""

    def __init__(self, content: bytes, name: str) -> None:
        self.lines: dict[str, int] = {}
        self._content = content
        self._name = name
        self._problems: list[str] = []
        self._anchors: dict[str, _Built | None] = {}
        self._nodes = self._text = 0
        self._events: Iterator[Any] = iter(())

    def document(self) -> Any:
        """The only document; None if there is none."""
        try:
            text = self._content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = self._content.count(b"\n", 0, error.start) + 1
            raise InvalidEntityError(f"{self._name}, line {line}: it is not written in UTF-8.") from None
        self._events = yaml.parse(text, Loader=_Loader)
        try:
            value = self._document()
        except yaml.YAMLError as error:
            raise self._syntax_error(error) from None
        except (ValueError, OverflowError) as error:  # escapes beyond Unicode, in PyYAML's own scanner
            raise InvalidEntityError(f"{self._name} cannot be read as YAML: {error}.") from None
        if self._problems:
            raise InvalidEntityError(f"{self._name} is not usable:", problems=self._problems)
        return value

    def _document(self) -> Any:
        next(self._events)
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        built = self._node(next(self._events), _Place(), "", 0)
        next(self._events)
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._fail(event, "a second document begins here; one file holds one document")
        return built.value

    def _syntax_error(self, error: yaml.YAMLError) -> InvalidEntityError:
        begun: Any = getattr(error, "context_mark", None)
        mark: Any = getattr(error, "problem_mark", None) or begun
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        context = getattr(error, "context", None)
        if context and begun and begun.line != mark.line:
            context = f"{context} that begins in line {begun.line + 1}"
        problem = getattr(error, "problem", None) or getattr(error, "reason", None)
        said = ", ".join(str(word) for word in (context, problem) if word) or "it breaks the rules of YAML"
        lines = self._content.splitlines()
        line = lines[mark.line] if mark and mark.line < len(lines) else b""
        tabbed = b"\t" in line[: len(line) - len(line.lstrip())]
        hint = "YAML is indented with spaces; tabs are not allowed." if tabbed else None
        return InvalidEntityError(f"{self._name}{where}: {said[:300]}.", hint=hint)

    def _fail(self, event: Any, words: str) -> NoReturn:
        mark = event.start_mark
        problems = [*self._problems, f"line {mark.line + 1}, column {mark.column + 1}: {words}"]
        raise InvalidEntityError(f"{self._name} is not usable:", problems=problems)

    def _problem(self, event: Any, place: _Place, words: str) -> None:
        mark = event.start_mark
        self._problems.append(f"line {mark.line + 1}, column {mark.column + 1}: {place} {words}")
        if len(self._problems) >= MAX_PROBLEMS:
            raise InvalidEntityError(f"{self._name} is not usable; its first problems are:", problems=self._problems)

    def _weigh(self, event: Any, nodes: int, text: int, depth: int) -> None:
        self._nodes += nodes
        self._text += text
        if depth > MAX_DEPTH:
            self._fail(event, f"it is nested deeper than {MAX_DEPTH} levels")
        if self._nodes > MAX_NODES:
            self._fail(event, f"it has more than {MAX_NODES} values, with each alias counted as what it stands for")
        if self._text > MAX_TEXT:
            self._fail(event, f"it has more than {MAX_TEXT} characters, with each alias counted as what it stands for")

    def _node(self, event: Any, place: _Place, known: str | None, depth: int) -> _Built:
        """Build the value that starts with ``event``; ``known`` is its place in ``lines``, None if it has none."""
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        self._weigh(event, 1, 0, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            self._weigh(event, 0, len(event.value), depth)
            built = _Built(self._scalar(event, place), 1, len(event.value), 0)
        elif isinstance(event, yaml.SequenceStartEvent):
            built = self._sequence(event, place, known, depth)
        else:
            built = self._mapping(event, place, known, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = built
        return built

    def _alias(self, event: Any, depth: int) -> _Built:
        if event.anchor not in self._anchors:
            self._fail(event, "an alias stands for an anchor that is not there")
        target = self._anchors[event.anchor]
        if target is None:
            self._fail(event, "an alias stands for something that it is itself a part of")
        self._weigh(event, target.nodes, target.text, depth + target.height)
        return attrs.evolve(target, value=copy.deepcopy(target.value))

    def _sequence(self, event: Any, place: _Place, known: str | None, depth: int) -> _Built:
        self._check_tag(event, place, "seq")
        items: list[Any] = []
        nodes, text, height = 1, 0, 0
        while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
            index = len(items)
            built = self._node(item, _Place(place, index), f"{known}[{index}]" if known else None, depth + 1)
            items.append(built.value)
            nodes, text, height = nodes + built.nodes, text + built.text, max(height, built.height + 1)
        return _Built(items, nodes, text, height)

    def _mapping(self, event: Any, place: _Place, known: str | None, depth: int) -> _Built:
        self._check_tag(event, place, "map")
        own: dict[str, Any] = {}
        first: dict[str, int] = {}
        merged: list[Any] | None = None
        nodes, text, height = 1, 0, 0
        while not isinstance(key_event := next(self._events), yaml.MappingEndEvent):
            merge = _is_merge(key_event)
            key_built = self._node(key_event, place, None, depth + 1)
            key = key_built.value
            usable = merge or self._key_is_usable(key_event, place, key)
            inner = _Place(place, key) if usable else place
            inner_known = self._record(key_event, known, key, depth) if usable and not merge else None
            built = self._node(next(self._events), inner, inner_known, depth + 1)
            nodes, text = nodes + key_built.nodes + built.nodes, text + key_built.text + built.text
            height = max(height, built.height + 1)
            if merge:
                if merged is not None:
                    self._problem(key_event, place, "has the key << twice")
                merged = self._merged(key_event, place, built.value)
            elif usable and key in own:
                self._problem(key_event, inner, f"is there twice; it stands in line {first[key]} already")
            elif usable:
                own[key] = built.value
                first[key] = key_event.start_mark.line + 1
        for other in merged or []:
            own = {**other, **own}
        return _Built(own, nodes, text, height)

    def _key_is_usable(self, event: Any, place: _Place, key: Any) -> bool:
        if not isinstance(key, str):
            shown = f"the key {key!r}" if isinstance(key, (bool, int, float)) else f"a key that is a {_kind(key)}"
            self._problem(event, place, f"has {shown}; keys must be text, so put it in quotes")
            return False
        if len(key) > MAX_KEY:
            self._problem(event, place, f"has a key of {len(key)} characters; at most {MAX_KEY} are allowed")
            return False
        return True

    def _record(self, event: Any, known: str | None, key: str, depth: int) -> str | None:
        if known is None or depth >= _LINE_DEPTH or len(key) > _LINE_KEY:
            return None
        inner = f"{known}.{key}" if known else key
        self.lines.setdefault(inner, event.start_mark.line + 1)
        return inner

    def _merged(self, event: Any, place: _Place, value: Any) -> list[Any]:
        maps = value if isinstance(value, list) else [value]
        if not all(isinstance(item, dict) for item in maps):
            self._problem(event, place, "merges (<<) something that is not a map")
            return []
        return maps

    def _check_tag(self, event: Any, place: _Place, word: str) -> None:
        if event.tag not in (None, "!", _TAG + word):
            self._problem(event, place, f"has the tag {event.tag[:80]!r}, which is not allowed")

    def _scalar(self, event: Any, place: _Place) -> Any:
        value: str = event.value
        tag: str | None = event.tag
        if tag is None:
            tag = _RESOLVER.resolve(yaml.ScalarNode, value, (True, False)) if event.implicit[0] else _TAG + "str"
        if tag == _TAG + "merge" or tag in _TEXT_TAGS:
            if any("\ud800" <= char <= "\udfff" for char in value):
                self._problem(event, place, "holds half of a character (a lone surrogate)")
                return None
            return value
        if tag in _NUMBER_TAGS and len(value) > MAX_NUMBER:
            self._problem(event, place, f"is a number of more than {MAX_NUMBER} characters")
            return None
        return self._typed(event, place, tag, value)

    def _typed(self, event: Any, place: _Place, tag: str, value: str) -> Any:
        node = yaml.ScalarNode(tag, value)
        try:
            match tag.removeprefix(_TAG):
                case "null":
                    return None
                case "bool":
                    return bool(_CONSTRUCTOR.construct_yaml_bool(node))
                case "int":
                    return int(_CONSTRUCTOR.construct_yaml_int(node))
                case "float":
                    number = float(_CONSTRUCTOR.construct_yaml_float(node))
                case _:
                    self._problem(event, place, f"has the tag {tag[:80]!r}, which is not allowed")
                    return None
        except (ValueError, KeyError, IndexError, OverflowError):
            self._problem(event, place, f"is not what its tag {tag[:80]!r} says")
            return None
        if problem := checks.json_problem(number, "this place"):
            self._problem(event, place, problem)
            return None
        return number


def _is_merge(event: Any) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.tag is None and event.implicit[0]

"""Settings of backends: one attrs class each, from which options, variables, profile keys and docs are made.

A field is declared with ``setting(...)``. Its value is taken from, in this order: the command line
(``--docker-shm-size``), the environment (``MEDPERF_DOCKER_SHM_SIZE``), the profile (``docker: {shm_size: ...}``),
the default. Supported types: str, int, float, bool, and ``tuple[str, ...]`` (a repeatable option, a comma-separated
variable, a list in the profile), each also with ``| None``.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from medperf_core.errors import ConfigurationError

S = TypeVar("S")


@attrs.frozen
class NoSettings:
    """For a backend that has nothing to set."""


def setting(default: Any, help: str, *, secret: bool = False) -> Any:
    """An attrs field of a settings class.

    Args:
        default: the value where nobody sets another; ``()`` for a tuple.
        help: one sentence for the command line and the documentation.
        secret: true for values that no profile may hold; given by variable or credentials only.
    """
    return attrs.field(default=default, metadata={"help": help, "secret": secret})


@attrs.frozen
class SettingField:
    """One field of a settings class, as the command line and the documentation see it.

    Attributes:
        backend: the backend's name, such as ``docker``.
        name: the field, such as ``shm_size``.
        type: str, int, float or bool; of the items if ``many``.
        many: whether it is a tuple of values.
    """

    backend: str
    name: str
    type: type
    many: bool
    default: Any
    help: str
    secret: bool

    @property
    def option(self) -> str:
        return f"--{self.backend}-{self.name}".replace("_", "-")

    @property
    def variable(self) -> str:
        return f"MEDPERF_{self.backend}_{self.name}".replace("-", "_").upper()


def fields_of(backend: str, settings: type) -> tuple[SettingField, ...]:
    """The fields of a backend's settings class, in order."""
    hints = typing.get_type_hints(settings)
    found = []
    for field in attrs.fields(settings):
        kind, many = _value_type(hints[field.name])
        found.append(
            SettingField(
                backend,
                field.name,
                kind,
                many,
                field.default,
                field.metadata.get("help", ""),
                bool(field.metadata.get("secret")),
            )
        )
    return tuple(found)


def _value_type(hint: Any) -> tuple[type, bool]:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False


def make_settings(
    backend: str,
    settings: type[S],
    *,
    options: Mapping[str, Any],
    environment: Mapping[str, str],
    profile: Mapping[str, Any],
) -> S:
    """The settings in force for a backend.

    Args:
        options: command-line values by field name; None means not given.
        environment: ``os.environ`` or the like.
        profile: the profile's map for this backend.

    Raises:
        ConfigurationError: an unknown key, a value of the wrong type, or a secret in the profile; names the place.
    """
    fields = {field.name: field for field in fields_of(backend, settings)}
    unknown = sorted(set(profile) - set(fields))
    if unknown:
        raise ConfigurationError(
            f"The profile sets {backend}.{unknown[0]}, which {backend} does not have.",
            hint=f"It has: {', '.join(sorted(fields)) or 'no settings'}.",
        )
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if options.get(name) not in (None, ()):
            values[name] = convert(field, options[name], field.option)
        elif environment.get(field.variable):
            values[name] = convert(field, environment[field.variable], field.variable)
        elif name in profile:
            if field.secret:
                raise ConfigurationError(
                    f"The profile holds {backend}.{name}, which is a secret.",
                    hint=f"Remove it there and set the variable {field.variable} instead.",
                )
            values[name] = convert(field, profile[name], f"{backend}.{name} in the profile")
    return settings(**values)


def convert(field: SettingField, value: Any, place: str) -> Any:
    """``value`` as the field's type.

    Raises:
        ConfigurationError: it cannot be read as that type; ``place`` says where it stands.
    """
    if field.many:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise ConfigurationError(f"{place} must be a list.")
        return tuple(_scalar(field.type, item.strip() if isinstance(item, str) else item, place) for item in items)
    return _scalar(field.type, value, place)


def _scalar(kind: type, value: Any, place: str) -> Any:
    if value is None or (isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))):
        return value
    text = str(value).strip()
    if kind is bool and text.lower() in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        return text.lower() in ("true", "yes", "on", "1")
    if kind in (int, float, str) and not isinstance(value, (bool, list, dict)):
        try:
            return kind(text)
        except ValueError:
            pass
    wanted = {bool: "yes or no", int: "a whole number", float: "a number", str: "text"}.get(kind, kind.__name__)
    raise ConfigurationError(f"{place} is {value!r}; it must be {wanted}.")

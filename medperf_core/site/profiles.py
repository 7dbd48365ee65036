"""Profiles: named sets of choices, kept in ``config.yaml`` of the home folder.

.. code-block:: yaml

    active: hospital
    profiles:
      hospital:
        server: https://medperf.example.org
        platform: singularity
        memory: 8g
        time_limits: {infer: 7200}          # seconds
        policy: {benchmarks: [3, 4]}
        backends:                           # their settings, by backend and field
          docker: {shm_size: 8g}

What a profile does not say has its default. The file is read strictly, never rewritten on reading, and replaced as a
whole under a lock. It holds no secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import yaml

from medperf_core.entities.codec import from_data, to_data
from medperf_core.entities.image import ImageIdentity
from medperf_core.errors import ConfigurationError, InvalidEntityError, NotFoundError, UsageError
from medperf_core.plugin.isolation import Waiver
from medperf_core.plugin.runner import Gpus
from medperf_core.plugin.settings import SettingField, convert
from medperf_core.site.atomic import write_atomically
from medperf_core.site.home import Home, check_name, locked, remove_tree
from medperf_core.site.keys import check_fingerprint
from medperf_core.site.options import parse_size

DEFAULT = "default"
CREDENTIALS = ("file", "keyring")
LOG_LEVELS = ("debug", "info", "warning", "error")
_HEAD = "# Profiles of medperf. `medperf profile` changes this file; keep secrets out of it.\n"
_UNKNOWN = re.compile(r"unknown error \((.*)\)", re.DOTALL)


def _words(value: tuple[str, ...], what: str) -> None:
    for word in value:
        if not word.strip() or word != word.strip():
            raise UsageError(f"{what} has the entry {word!r}, which is blank or has spaces around it.")


def _check_words(instance: Any, attribute: attrs.Attribute[Any], value: tuple[str, ...] | None) -> None:
    _words(value or (), attribute.name)


def _check_name(instance: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    check_name(value, f"a {attribute.name}")


def _check_server(instance: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    scheme, colon, rest = value.partition(":")
    if scheme == "embedded" and colon:
        if not rest.startswith(("/", "~")) or not rest.isprintable():
            raise UsageError(
                f"server is {value!r}; after embedded: there must be an absolute path without control characters.",
                hint="Write for instance embedded:/data/registry.db, or embedded:~/registry.db.",
            )
        return
    if value and not re.fullmatch(r"[a-z][a-z0-9+.-]*:\S+", value):
        raise UsageError(f"server is {value!r}; it must be an address such as https://host or embedded:/path.")
    if scheme == "http":
        raise UsageError(
            f"server is {value!r}, which is plain http: everybody on the way could read and change what is sent.",
            hint="Give its https address.",
        )
    _no_password("server", value)


def _check_allow(instance: Any, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    for waiver in value:
        Waiver.parse(waiver)


def _check_keys(instance: Any, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    for text in value:
        check_fingerprint(text)


def _check_images(instance: Any, attribute: attrs.Attribute[Any], value: tuple[str, ...] | None) -> None:
    for image in value or ():
        ImageIdentity.parse(image)


def _check_proxies(instance: Any, attribute: attrs.Attribute[Any], value: Mapping[str, str]) -> None:
    for scheme, address in value.items():
        _no_password(f"proxies.{scheme}", address)


def _check_positive(instance: Any, attribute: attrs.Attribute[Any], value: float | Mapping[str, float] | None) -> None:
    numbers = value.items() if isinstance(value, Mapping) else [("", value)]
    for key, number in numbers:
        if number is not None and not 0 < number < float("inf"):
            raise UsageError(f"{attribute.name}{'.' if key else ''}{key} is {number}; it must be more than 0.")


def _check_size(instance: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is not None:
        try:
            parse_size(value)
        except UsageError as error:
            raise UsageError(f"{attribute.name}: {error.message}", hint=error.hint) from None


def _check_gpus(instance: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    Gpus.parse(value)


def _no_password(key: str, address: str) -> None:
    try:
        parts = urlsplit(address)
    except ValueError:
        raise UsageError(f"{key} is not an address.") from None
    if parts.password or (parts.username and parts.scheme.startswith("http")):
        raise UsageError(
            f"{key} holds a user name or password; a profile keeps no secrets.",
            hint="For a proxy, leave it out here and set the variable HTTPS_PROXY; for a server, log in.",
        )


@attrs.frozen(kw_only=True)
class PolicyRules:
    """What a site allows to run and to send, whatever plugins say. None means anything; () means nothing.

    Attributes:
        owners: of containers: ``user UID`` as the server counts them, one's own e-mail address, and ``local`` for
            containers in a folder here.
        benchmarks: benchmark UIDs.
        images: identities as ``KIND:sha256:HEX``.
    """

    owners: tuple[str, ...] | None = attrs.field(default=None, validator=_check_words)
    benchmarks: tuple[int, ...] | None = None
    images: tuple[str, ...] | None = attrs.field(default=None, validator=_check_images)


@attrs.frozen(kw_only=True)
class Profile:
    """One set of choices.

    Attributes:
        server: ``https://...``, ``embedded:`` and an absolute path (or one that starts with ``~``), or "" for none.
        platform, executor: names of the runner and of the executor.
        allow: what ``--allow`` takes, for every command.
        required_plugins: plugins that must be loaded, or nothing runs and nothing is sent.
        blocked_plugins: plugins that are not even imported.
        trusted_keys: fingerprints of the makers whose bundles are loaded, as ``medperf site key`` prints them.
        policy: what may run and be sent.
        proxies: by scheme, without passwords: ``{"https": "http://proxy:3128"}``; empty means the environment's.
        ca_bundle: path of a PEM file; None means the system's authorities.
        time_limits: seconds, by task.
        memory, shm_size: sizes such as ``8g``; None for no limit and for the engine's default.
        cpus, processes: None for no limit and for the program's default.
        gpus: none, all, a count, or ``device=0,1``.
        loglevel: debug, info, warning or error.
        credentials: where logins are put: file (readable by their owner only) or keyring (the system's).
        backends: settings of backends, by backend and field.
    """

    server: str = attrs.field(default="", validator=_check_server)
    platform: str = attrs.field(default="docker", validator=_check_name)
    executor: str = attrs.field(default="local", validator=_check_name)
    allow: tuple[str, ...] = attrs.field(default=(), validator=_check_allow)
    required_plugins: tuple[str, ...] = attrs.field(default=(), validator=_check_words)
    blocked_plugins: tuple[str, ...] = attrs.field(default=(), validator=_check_words)
    trusted_keys: tuple[str, ...] = attrs.field(default=(), validator=_check_keys)
    policy: PolicyRules = attrs.field(factory=PolicyRules)
    proxies: dict[str, str] = attrs.field(factory=dict, validator=_check_proxies)
    ca_bundle: str | None = None
    time_limits: dict[str, float] = attrs.field(factory=dict, validator=_check_positive)
    memory: str | None = attrs.field(default=None, validator=_check_size)
    cpus: float | None = attrs.field(default=None, validator=_check_positive)
    processes: int | None = attrs.field(default=None, validator=_check_positive)
    gpus: str | None = attrs.field(default=None, validator=_check_gpus)
    shm_size: str | None = attrs.field(default=None, validator=_check_size)
    loglevel: str = attrs.field(default="info", validator=attrs.validators.in_(LOG_LEVELS))
    credentials: str = attrs.field(default="file", validator=attrs.validators.in_(CREDENTIALS))
    backends: dict[str, dict[str, Any]] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class _Config:
    active: str = DEFAULT
    profiles: dict[str, Profile] = attrs.field(factory=dict)


class ProfileStore:
    """Reads and changes the profiles of a home. Safe to use by several processes at a time."""

    def __init__(self, home: Home) -> None:
        self._file = home.config_file
        self._home = home
        self._lock = home.locks / "config.lock"

    def names(self) -> tuple[str, ...]:
        """All profiles, in alphabetical order; ``default`` is always there."""
        return tuple(sorted(self._read().profiles))

    @property
    def active_name(self) -> str:
        return self._read().active

    def get(self, name: str | None = None) -> Profile:
        """A profile; None means the active one.

        Raises:
            NotFoundError: there is no such profile.
            ConfigurationError: the file is not usable; it names the key.
        """
        config = self._read()
        return _known(config, config.active if name is None else name)

    def create(self, name: str, like: str | None = None, **changes: Any) -> Profile:
        """Make a profile from the defaults or ``like`` another one.

        Raises:
            UsageError: there is one of this name already, or a value is not fit.
        """
        check_name(name, "a profile")
        with self._changing():
            config = self._read()
            if name in config.profiles:
                raise UsageError(
                    f"There is already a profile {name!r}.",
                    hint=f"Choose another name; taken are: {', '.join(sorted(config.profiles))}.",
                )
            return self._put(config, name, _changed(_known(config, like) if like else Profile(), changes))

    def update(self, name: str, changes: Mapping[str, Any]) -> Profile:
        """Change fields of a profile and return what it is now."""
        with self._changing():
            config = self._read()
            return self._put(config, name, _changed(_known(config, name), changes))

    def set_text(self, name: str, key: str, value: str, fields: Iterable[SettingField] = ()) -> Profile:
        """Change one key, given as text.

        Args:
            key: a field (``platform``), a part of one (``policy.owners``, ``proxies.https``, ``time_limits.infer``)
                or a backend's setting (``docker.host``).
            value: lists are separated by commas; "" sets the default again.
            fields: the settings of all backends that are installed.

        Raises:
            UsageError: unknown key (known ones are listed), a secret, or a value that does not fit.
        """
        known = tuple(fields)
        with self._changing():
            config = self._read()
            return self._put(config, name, _with_text(_known(config, name), key, value.strip(), known))

    def activate(self, name: str) -> None:
        """Make a profile the one that commands use."""
        with self._changing():
            config = self._read()
            _known(config, name)
            self._write(attrs.evolve(config, active=name))

    def delete(self, name: str) -> None:
        """Forget a profile, and the bundles that were loaded for it.

        Raises:
            UsageError: it is the active one or ``default``.
        """
        with self._changing():
            config = self._read()
            _known(config, name)
            if name == config.active:
                raise UsageError(
                    f"The profile {name!r} is active and cannot be deleted.", hint="Activate another one first."
                )
            if name == DEFAULT:
                raise UsageError(f"The profile {DEFAULT!r} cannot be deleted.", hint="Change its keys instead.")
            # first: a new profile of this name must not begin with them
            remove_tree(self._home.bundles_dir / check_name(name, "a profile"))
            self._write(attrs.evolve(config, profiles={k: v for k, v in config.profiles.items() if k != name}))

    def _changing(self) -> AbstractContextManager[None]:
        return locked(self._lock, "the profiles")

    def _put(self, config: _Config, name: str, profile: Profile) -> Profile:
        self._write(attrs.evolve(config, profiles={**config.profiles, name: profile}))
        return profile

    def _write(self, config: _Config) -> None:
        data = {"active": config.active, "profiles": {k: _said(v) for k, v in sorted(config.profiles.items())}}
        write_atomically(self._file, _HEAD + yaml.safe_dump(data, sort_keys=False, allow_unicode=True), mode=0o600)

    def _read(self) -> _Config:
        try:
            data = yaml.safe_load(self._file.read_text("utf-8"))
        except FileNotFoundError:
            data = {}
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise _unusable(self._file, f"it cannot be read as YAML ({' '.join(str(error).split())})") from None
        data = {} if data is None else data
        profiles = data.get("profiles") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(profiles or {}, dict):
            raise _unusable(self._file, "it must be a map with the keys active and profiles")
        try:
            # An empty profile is null in YAML.
            plain = {**data, "profiles": {k: {} if v is None else v for k, v in (profiles or {}).items()}}
            config = from_data(plain, _Config)
            for name in config.profiles:
                check_name(name, "a profile")
        except InvalidEntityError as error:
            problems = [_UNKNOWN.sub(r"\1", problem) for problem in error.problems]
            raise _unusable(self._file, "; ".join(problems) or error.message, known=True) from None
        except UsageError as error:
            raise _unusable(self._file, error.message) from None
        config = attrs.evolve(config, profiles={DEFAULT: Profile(), **config.profiles})
        if config.active not in config.profiles:
            raise _unusable(self._file, f"active is {config.active!r}, and there is no such profile")
        return config


def _unusable(file: Path, reason: str, *, known: bool = False) -> ConfigurationError:
    keys = f" The keys of a profile are {', '.join(attrs.fields_dict(Profile))}." if known else ""
    return ConfigurationError(
        f"The configuration {file} is not usable: {reason.rstrip('.')}.",
        hint=f"Mend it with an editor, or move it away to begin anew; it was not changed.{keys}",
    )


def _known(config: _Config, name: str) -> Profile:
    if name not in config.profiles:
        raise NotFoundError(
            f"There is no profile {name!r}.", hint=f"Known profiles: {', '.join(sorted(config.profiles))}."
        )
    return config.profiles[name]


def _said(profile: Profile) -> dict[str, Any]:
    """What a profile says that is not the default, as plain data."""
    plain, default = to_data(profile), to_data(Profile())
    said = {key: _lists(value) for key, value in plain.items() if value != default[key]}
    if "policy" in said:
        said["policy"] = {key: value for key, value in said["policy"].items() if value is not None}
    return said


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def _changed(profile: Profile, changes: Mapping[str, Any]) -> Profile:
    unknown = sorted(set(changes) - set(attrs.fields_dict(Profile)))
    if unknown:
        raise _unknown_key(unknown[0], ())
    try:
        # Through plain data, so that types are checked as strictly as in the file.
        return from_data({**to_data(profile), **to_data(dict(changes))}, Profile)
    except InvalidEntityError as error:
        problems = "; ".join(_UNKNOWN.sub(r"\1", problem) for problem in error.problems)
        raise UsageError(f"The profile cannot be changed: {(problems or error.message).rstrip('.')}.") from None


_SCALARS: dict[str, type] = {"cpus": float, "processes": int}
_LISTS = ("allow", "required_plugins", "blocked_plugins", "trusted_keys")
_MAPS: dict[str, type] = {"proxies": str, "time_limits": float}
_RULES: dict[str, type] = {"owners": str, "benchmarks": int, "images": str}


def _with_text(profile: Profile, key: str, value: str, fields: tuple[SettingField, ...]) -> Profile:
    first, dot, rest = key.partition(".")
    plain = attrs.fields_dict(Profile)
    if not dot and first in plain and first not in ("policy", "backends", *_MAPS):
        if not value:
            return _changed(profile, {first: getattr(Profile(), first)})
        return _changed(profile, {first: _read_text(key, value, _SCALARS.get(first, str), many=first in _LISTS)})
    if first == "policy" and rest in _RULES:
        rules = {**to_data(profile.policy), rest: _read_text(key, value, _RULES[rest], many=True) if value else None}
        return _changed(profile, {"policy": rules})
    if first in _MAPS and rest:
        return _changed(profile, {first: _entry(getattr(profile, first), rest, _read_text(key, value, _MAPS[first]))})
    found = next(
        (field for field in fields if (field.backend, field.name.replace("_", "-")) == (first, rest.replace("_", "-"))),
        None,
    )
    if found is None:
        raise _unknown_key(key, fields)
    if found.secret:
        raise UsageError(
            f"{key} is a secret; a profile keeps no secrets.", hint=f"Set the variable {found.variable} instead."
        )
    setting = _lists(convert(found, value, key)) if value else ""
    return _changed(
        profile,
        {"backends": _entry(profile.backends, first, _entry(profile.backends.get(first, {}), found.name, setting))},
    )


def _entry(mapping: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The mapping with this entry, or without it if the value is empty."""
    rest = {name: item for name, item in mapping.items() if name != key}
    return rest if value in ("", {}) else {**rest, key: value}


def _read_text(key: str, value: str, kind: type, *, many: bool = False) -> Any:
    if not value:
        return "" if not many else []
    first, _, rest = key.partition(".")
    field = SettingField(first, rest, kind, many, None, "", False)
    try:
        return _lists(convert(field, value, key))
    except ConfigurationError as error:
        raise UsageError(error.message, hint=error.hint) from None


def _unknown_key(key: str, fields: Iterable[SettingField]) -> UsageError:
    known = [name for name in attrs.fields_dict(Profile) if name not in ("policy", "backends", *_MAPS)]
    known += [f"policy.{name}" for name in _RULES] + ["proxies.SCHEME", "time_limits.TASK"]
    known += [f"{field.backend}.{field.name}" for field in fields if not field.secret]
    return UsageError(f"A profile has no key {key!r}.", hint=f"Known keys: {', '.join(known)}.")

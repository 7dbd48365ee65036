"""What loading plugins needs of the configuration, read without the entities, so that help stays quick."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from medperf_core.plugin.manager import PluginManager

CONFIG = "config.yaml"


def load_plugins(home: Path | None, profile: str | None, environment: Mapping[str, str] | None = None) -> PluginManager:
    """The installed plugins, less those that the profile in use blocks.

    Args:
        home, profile: as on the command line; None for those of the environment, else the usual ones.
        environment: None means this process's.

    Raises:
        ConfigurationError: there is a configuration and it is not usable, so nobody knows what it blocks.
        NotFoundError: there is no such profile.
    """
    variables = os.environ if environment is None else environment
    folder = home or Path(variables.get("MEDPERF_HOME") or "~/.medperf")
    file = folder.expanduser() / CONFIG
    blocked: tuple[str, ...] = ()
    if file.exists():
        found = _blocked(file, profile or variables.get("MEDPERF_PROFILE"))
        blocked = _checked(folder, profile or variables.get("MEDPERF_PROFILE")) if found is None else found
    return PluginManager.discover(blocked, variables)


def profile_names(home: Path | None, environment: Mapping[str, str] | None = None) -> list[str]:
    """The names of the profiles, in alphabetical order; only ``default`` where there is no usable configuration.

    Args:
        home, environment: as for ``load_plugins``.
    """
    import yaml

    variables = os.environ if environment is None else environment
    folder = home or Path(variables.get("MEDPERF_HOME") or "~/.medperf")
    try:
        names = yaml.safe_load((folder.expanduser() / CONFIG).read_text("utf-8"))["profiles"]
        return sorted({"default", *map(str, names)})
    except (OSError, ValueError, RecursionError, LookupError, TypeError, yaml.YAMLError):
        return ["default"]


def _blocked(file: Path, profile: str | None) -> tuple[str, ...] | None:
    """``blocked_plugins`` of a configuration that looks as it should; None if it has to be looked at closely."""
    import yaml

    try:
        data = yaml.safe_load(file.read_text("utf-8"))
        chosen = data["profiles"].get(profile or data["active"])
        names = chosen.get("blocked_plugins", [])
    except (OSError, ValueError, RecursionError, LookupError, AttributeError, TypeError, yaml.YAMLError):
        return None
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if whole else None


def _checked(folder: Path, profile: str | None) -> tuple[str, ...]:
    from medperf_core.site.home import Home
    from medperf_core.site.profiles import ProfileStore

    return ProfileStore(Home.open(folder)).get(profile).blocked_plugins

"""Who we are at a registry: the site's own credentials, else those of docker's or the engine's own login."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medperf_core.plugin import BackendContext
from medperf_singularity.engine import PATH

_FILE_LIMIT = 1 << 20
_HELPER_SECONDS = 60
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")


def login(context: BackendContext, host: str) -> tuple[str, str] | None:
    """User name and password for a registry; None if nobody stored any.

    Args:
        host: the registry as references name it, with its port.
    """
    stored = context.credentials(host) or {}
    if stored.get("username") and stored.get("password"):
        return stored["username"], stored["password"]
    keys = _HUB_KEYS if host in _HUB_KEYS else (host, f"https://{host}", f"http://{host}")
    for path in _files():
        found = _from_file(path, keys)
        if found is not None:
            return found
    return None


def _files() -> Iterator[Path]:
    docker = os.environ.get("DOCKER_CONFIG")
    if docker:
        yield Path(docker) / "config.json"
    try:
        home = Path.home()
    except RuntimeError:  # an account without a name, and no HOME
        return
    if not docker:
        yield home / ".docker" / "config.json"
    yield home / ".apptainer" / "docker-config.json"
    yield home / ".singularity" / "docker-config.json"


def _from_file(path: Path, keys: tuple[str, ...]) -> tuple[str, str] | None:
    try:
        with path.open("rb") as stream:
            document = json.loads(stream.read(_FILE_LIMIT))
        helpers, auths = document.get("credHelpers") or {}, document.get("auths") or {}
        for key in keys:
            helper = helpers.get(key) or (document.get("credsStore") if key in auths else None)
            found = _ask_helper(helper, key) if helper else _entry(auths.get(key))
            if found is not None:
                return found
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return None  # without a login the registry says what it needs
    return None


def _entry(entry: Mapping[str, Any] | None) -> tuple[str, str] | None:
    if not entry or not entry.get("auth"):
        return None
    user, colon, password = base64.b64decode(entry["auth"]).decode().partition(":")
    return (user, password.rstrip("\0")) if colon and user else None


def _ask_helper(name: str, key: str) -> tuple[str, str] | None:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        return None
    try:
        answer = subprocess.run(
            [f"docker-credential-{name}", "get"],
            input=key.encode(),
            capture_output=True,
            timeout=_HELPER_SECONDS,
            check=False,
            env={**os.environ, "PATH": os.environ.get("PATH", PATH)},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode != 0:
        return None
    found = json.loads(answer.stdout[:_FILE_LIMIT])
    return str(found["Username"]), str(found["Secret"])

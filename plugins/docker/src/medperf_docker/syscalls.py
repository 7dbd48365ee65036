"""The filter of system calls that tasks get: how each engine takes it, and whether it does.

Every engine gets the contract's own profile, also Docker, whose own is good: a site may have put another one in its
place or switched it off (``seccomp-profile`` in daemon.json), old versions of it answer clone3 in a way that newer C
libraries do not understand, and Podman's own lets a task make a user namespace. Where the kernel cannot filter, both
refuse a container that asks for it, so that nothing runs unfiltered by mistake.

Docker takes the profile's text. Podman (to 5 at least) takes any value for the path of a file of its own machine, which
it reads when the container is made. So the file is kept in the cache, and Podman is asked beforehand whether it can
read it there: it may be on another machine, or belong to an account that cannot get into the cache.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

import attrs

from medperf_core.plugin import BackendContext
from medperf_core.plugin.seccomp import profile
from medperf_docker.connect import TIMEOUT, Connection
from medperf_docker.container import labels
from medperf_docker.daemon import Daemon


@attrs.frozen
class Filter:
    """A filter that the engine takes.

    Attributes:
        value: of the security option ``seccomp`` in the engine's interface.
        file: where the profile is on this machine, for commands that people enter.
    """

    value: str
    file: Path


def find_filter(connection: Connection, daemon: Daemon, context: BackendContext) -> Filter | None:
    """The filter for this engine; None if it takes none.

    Raises:
        ExecutionError: the engine cannot be reached.
    """
    if not daemon.seccomp:
        return None
    text = profile(daemon.architecture)
    name = f"seccomp-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    file = context.cache_dir.absolute() / "docker" / name
    kept = _keep(file, text)
    if not daemon.podman:
        return Filter(text, file)
    return Filter(str(file), file) if kept and _is_read(connection, file) else None


def _keep(file: Path, text: str) -> bool:
    """Have the text in the file, readable for the daemon's account; whether it is there."""
    try:
        if file.is_file() and file.read_text() == text:
            return True
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(text)
        temporary.chmod(0o644)
        temporary.replace(file)
    except OSError:  # a cache that only others may write to
        return False
    return True


def _is_read(connection: Connection, file: Path) -> bool:
    """Whether Podman makes a container with it: one of no image, that is never started."""
    plan = {
        "name": f"medperf-probe-{secrets.token_hex(8)}",
        "labels": labels(""),
        "rootfs": "/",
        "command": ["none"],
        "netns": {"nsmode": "none"},
        "seccomp_profile_path": str(file),
    }
    with connection.client("tell whether it can filter system calls") as client:
        own = f"{client.base_url}/v4.0.0/libpod/containers"
        made: bool = client.post(f"{own}/create", json=plan, timeout=TIMEOUT).status_code == 201
        if made:
            client.delete(f"{own}/{plan['name']}?force=true", timeout=TIMEOUT)
    return made

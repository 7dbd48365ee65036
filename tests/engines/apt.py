"""Installs Debian packages without starting, now or at boot, the services in them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from .processes import EngineError, tail

POLICY = Path("/usr/sbin/policy-rc.d")
NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/medperf-engines.conf")
OPTIONS = ("-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600", "-o", "Dpkg::Use-Pty=0")


def install(packages: Sequence[str], units: Sequence[str]) -> None:
    """Install packages; on a failure the package lists are brought up to date once and it is tried again."""
    with _temporary(POLICY, "#!/bin/sh\nexit 101\n", 0o755), _temporary(NO_CLUSTER, "create_main_cluster = false\n"):
        first = _apt("install", *packages)
        if first is not None:
            _apt("update")
            second = _apt("install", *packages)
            if second is not None:
                raise EngineError(f"apt-get could not install {' '.join(packages)}\n{tail(second)}")
    if Path("/run/systemd/system").is_dir():
        for unit in units:
            subprocess.run(["systemctl", "disable", "--quiet", unit], capture_output=True)


def _apt(*words: str) -> str | None:
    """None when it worked, else what it said."""
    env = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "APT_LISTCHANGES_FRONTEND": "none",
        "NEEDRESTART_SUSPEND": "1",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        ["apt-get", *OPTIONS, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=env,
    )
    return None if done.returncode == 0 else done.stdout


@contextlib.contextmanager
def _temporary(path: Path, text: str, mode: int = 0o644) -> Iterator[None]:
    """A file that is there during the installation only; one that was there before is left as it is."""
    folders = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as handle:
            handle.write(text)
    except FileExistsError:
        yield
        return
    path.chmod(mode)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if it is still empty

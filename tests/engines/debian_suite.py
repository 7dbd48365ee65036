"""Downloads packages of another Debian suite with an apt state of its own; the machine's apt is left as it is."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from . import processes
from .processes import EngineError

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
TARGETS = "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)"


@dataclasses.dataclass(frozen=True)
class Suite:
    """One suite of the mirror that this machine's apt uses already.

    Attributes:
        name: the suite, such as "sid".
        folder: where its index is kept.
    """

    name: str
    folder: Path

    def update(self) -> None:
        """Fetch the index; apt checks its signature with Debian's own keys. It is tried twice."""
        for part in ("lists/partial", "cache/archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        options = f"target=Packages lang=none pdiffs=no signed-by={KEYRING}"
        (self.folder / "sources.list").write_text(f"deb [{options}] {mirror()} {self.name} main\n")
        twice(lambda: self._apt("apt-get", "-qq", "--error-on=any", "update"))

    def offers(self, packages: Iterable[str]) -> dict[str, list[str]]:
        """The versions of each package that the suite has, the newest first."""
        found: dict[str, list[str]] = {package: [] for package in packages}
        for line in self._apt("apt-cache", "madison", *found).splitlines():
            package, version, *_ = (part.strip() for part in line.split("|"))
            if package in found and re.fullmatch(r"[0-9][A-Za-z0-9.+~:-]*", version):
                found[package].append(version)
        return found

    def download(self, versions: Mapping[str, str], into: Path) -> dict[str, Path]:
        """Fetch these versions into an empty folder; apt compares each with the index. It is tried twice."""
        wanted = [f"{package}={version}" for package, version in versions.items()]
        twice(lambda: self._apt("apt-get", "-qq", "download", *wanted, folder=into))
        return {package: next(into.glob(f"{package}_*.deb")) for package in versions}

    def _apt(self, program: str, *words: str, folder: Path = Path("/")) -> str:
        options = {
            "Dir::Etc::SourceList": self.folder / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State::Lists": self.folder / "lists",
            "Dir::State::Status": "/dev/null",
            "Dir::Cache": self.folder / "cache",
            "APT::Sandbox::User": "root",
            "Acquire::Retries": 1,
        }
        settings = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        done = subprocess.run(
            [program, *settings, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=folder,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        if done.returncode != 0:
            said = processes.tail(done.stdout + done.stderr)
            asked = " ".join(word for word in words if not word.startswith("-"))
            raise EngineError(f"{program} {asked} failed for Debian's suite {self.name}\n{said}")
        return done.stdout


def mirror() -> str:
    """The address of the Debian mirror in apt's settings; the lists of packages are fetched first if there are none."""
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    for attempt in range(2):
        if attempt:
            twice(lambda: processes.run(["apt-get", "-qq", "update"], env={**os.environ, "LC_ALL": "C.UTF-8"}))
        for line in processes.run(
            ["apt-get", "indextargets", "--format", TARGETS, "Created-By: Packages"]
        ).splitlines():
            address, *rest = line.split()
            if rest == [release, "main", "Debian"]:
                return address
    raise EngineError(f"apt has no index of Debian's own {release} main: its settings name no mirror, or none answers")


def twice(action: Callable[[], object]) -> None:
    """Do it again if it fails: a mirror is busy or changes at times."""
    try:
        action()
    except EngineError:
        time.sleep(1)
        action()

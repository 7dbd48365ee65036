"""Apptainer: a program that is installed, not a server. The machine's own is used where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from . import apptainer_package as package
from . import apt, mounts, processes, rootless
from .engine import Engine, Launch, find
from .processes import EngineError

ADDRESS = "MEDPERF_TEST_APPTAINER"
PROGRAM = "/usr/bin/apptainer"
OLDEST = (1, 1)
FUSE = Path("/dev/fuse")
WORD = "a container ran"
AGAIN = ("--reinstall", "--allow-downgrades", "-o", "Dpkg::Options::=--force-confnew")


class Apptainer(Engine):
    """Installs Apptainer, or uses the one that is there and then never touches it. "Running" means that it works."""

    name = "apptainer"
    title = "Apptainer"
    programs = (
        ("patchelf", "patchelf"),
        ("mksquashfs", "squashfs-tools"),
        ("newuidmap", "uidmap"),
        ("squashfuse", "squashfuse"),
        ("fuse2fs", "fuse2fs"),
        ("fuse-overlayfs", "fuse-overlayfs"),
        ("fakeroot", "fakeroot"),
        ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
        ("/bin/busybox", "busybox-static"),
    )
    keys = (ADDRESS,)

    def outside(self) -> str | None:
        """The path of a program of this machine that works and was not installed from here."""
        for name in ("apptainer", "singularity"):
            for path in (shutil.which(name), find(name)):
                if path and not (made_here() and Path(path).resolve() == Path(PROGRAM)) and new_enough(path):
                    return str(Path(path).absolute())
        return None

    def missing(self) -> list[str]:
        return [name for name in super().missing() if name == "busybox-static" or not self.outside()]

    def plan(self) -> str:
        if path := self.outside():
            return f"Uses {path} ({told(path)}) as it is.{planned()}"
        if made_here() == package.MARK and new_enough(PROGRAM):
            return f"Uses the Apptainer that was installed from here.{planned()}"
        if words := in_the_way():
            return f"Installs no Apptainer: {words}"
        pin, others = package.PINS[0], len(package.PINS) - 1
        return (
            f"Downloads {pin.package} {pin.version} and {others} libraries from Debian's suite {package.SUITE} "
            f"(the newest of what is gone), 33 MB with the index, to {self.home}, unless they are there. "
            "Makes one package of them with its own settings: no network but none, newer system calls allowed, only "
            "such capabilities as root has here. Installs it as the package apptainer, its libraries in "
            f"{package.PRIVATE}; the system's own stay as they are."
            f"{planned()}"
        )

    def shown(self, values: Mapping[str, str]) -> str:
        return f"{values[ADDRESS]} ({told(values[ADDRESS])})"

    def prepare(self, ports: Mapping[str, int]) -> Launch:
        """Install it if need be; what is launched is the probe, which ends by itself."""
        program = self.outside() or self._install()
        if not root_has_ids():
            rootless.give_ids("root")
        if fuse_closed():
            FUSE.chmod(0o666)
        probe, work = self.home / "probe", self.home / "work"
        for folder in (self.home, work):
            folder.mkdir(mode=0o755, exist_ok=True)
        package.write_probe(probe)
        argv = [program, "--quiet", "--nocolor", "exec", "--containall", "--net", "--network", "none", str(probe)]
        folders = {"APPTAINER_CONFIGDIR": f"{work}/config", "APPTAINER_CACHEDIR": f"{work}/cache"}
        env = processes.environment(HOME=str(work), APPTAINER_TMPDIR=str(work), **folders)
        return Launch([*argv, "/bin/busybox", "echo", WORD], {ADDRESS: program}, env=env)

    def _install(self) -> str:
        if made_here() == package.MARK and new_enough(PROGRAM):
            return PROGRAM
        if words := in_the_way():
            raise EngineError(words)
        # Also over one that no longer works or is of another mark, with the settings of this one.
        try:
            apt.install([*AGAIN, str(package.make(self.home))], ())
        finally:
            package.clear(self.home)
        return PROGRAM

    def answers(self, values: Mapping[str, str]) -> bool:
        return new_enough(values[ADDRESS])

    def running(self, values: Mapping[str, str]) -> bool:
        stale = values[ADDRESS] == PROGRAM and made_here() not in (None, package.MARK)
        return self.answers(values) and not stale and not planned()

    def start(self) -> dict[str, str]:
        launch = self.prepare({})
        if not self.answers(launch.values):
            raise EngineError(f"{launch.values[ADDRESS]} does not tell a version: {told(launch.values[ADDRESS])}")
        try:
            said = processes.run(launch.argv, env=launch.env)
        except EngineError as error:
            raise EngineError(f"it is installed, but could not run a container. {error}") from None
        if WORD not in said.splitlines():
            raise EngineError(f"it ran a container, but that did not say what it should\n{processes.tail(said)}")
        return launch.values

    def stop(self) -> None:
        """Nothing of it runs by itself; the package stays installed, as do those of the servers."""
        mounts.unmount_below(self.home)


def made_here() -> str | None:
    """The mark in the version of a package that was made here; None if none is installed."""
    found = re.search(r"\+medperf[0-9]+$", package.installed() or "")
    return found[0] if found else None


def in_the_way() -> str | None:
    """Why the package is not installed: there is another of its name, which was not made here and is of no use."""
    version = package.installed()
    if version is None or made_here():
        return None
    oldest = ".".join(map(str, OLDEST))
    return f"the package apptainer {version} here does not work or is older than {oldest}. Repair or remove it."


def told(path: str) -> str:
    """What a program says about its version, or why it says nothing."""
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=processes.environment(),
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout.strip()[:200] if done.returncode == 0 else f"it ended with exit code {done.returncode}"


def new_enough(path: str) -> bool:
    """Whether a program answers as an Apptainer that the tests can use, under whichever name."""
    found = re.match(r"apptainer version (\d+)\.(\d+)", told(path))
    return found is not None and (int(found[1]), int(found[2])) >= OLDEST


def planned() -> str:
    """What would be changed on the machine besides the package, as sentences to append; "" for nothing."""
    words = ""
    if not root_has_ids():
        words += f" Gives root {rootless.COUNT} subordinate user and group ids, for images that are built."
    if fuse_closed():
        words += f" Opens {FUSE} to everybody (mode 0666, Debian's default), for accounts that mount images."
    return words


def root_has_ids() -> bool:
    """Whether root has subordinate ids."""
    return rootless.has_ids("root")


def fuse_closed() -> bool:
    """Whether only root may mount with FUSE here."""
    return FUSE.exists() and FUSE.stat().st_mode & 0o666 != 0o666


ENGINES = (Apptainer(),)

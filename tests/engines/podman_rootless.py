"""Podman's Docker interface as an unprivileged account, with a store of that account."""

from __future__ import annotations

import contextlib
import pwd
from collections.abc import Mapping
from pathlib import Path

from . import podman, processes, rootless, state
from .engine import Launch, find, need
from .processes import EngineError

LONGEST = 50
STORAGE = podman.STORAGE + 'rootless_storage_path = "{home}/graph"\n'


class RootlessPodman(podman.Podman):
    """It keeps a process of its own that holds the account's name spaces, and the mounts in them, between requests."""

    name = "podman-rootless"
    title = "Podman's Docker interface without root"
    programs = (*podman.Podman.programs, ("newuidmap", "uidmap"))
    keys = ("MEDPERF_TEST_PODMAN_ROOTLESS",)

    def plan(self) -> str:
        return f"{super().plan()}{rootless.planned()}"

    @property
    def run(self) -> Path:
        """Its folder of what runs; Podman adds a name to it and cannot clean up after containers if that is long."""
        return state.home("podman-run")

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "XDG_RUNTIME_DIR": str(self.run)}

    def prepare(self, ports: Mapping[str, int]) -> Launch:
        if len(f"{self.run}/containers") > LONGEST:
            raise EngineError(f"{self.run} is too long a path for Podman: set MEDPERF_ENGINES_DIR to a shorter one")
        rootless.ensure_user()
        for folder in (self.home, self.home / "tmp", self.home / "run", self.run):
            rootless.own_folder(folder)
        texts = {"containers": podman.CONTAINERS, "storage": STORAGE, "registries": podman.REGISTRIES}
        for name, text in texts.items():
            state.write(self.home / f"{name}.conf", text.format(home=self.home))
        socket = self.home / "podman.sock"
        socket.unlink(missing_ok=True)
        argv = [need("podman"), "system", "service", "--time=0", f"unix://{socket}"]
        return Launch(argv, {self.keys[0]: f"unix://{socket}"}, rootless.USER, self.environment)

    def stop(self) -> None:
        super().stop()
        self._end_name_spaces()

    def _end_containers(self) -> None:
        self._podman("rm", "--all", "--force", "--time=0")

    def _end_name_spaces(self) -> None:
        self._podman("system", "migrate")  # what ends the process that holds them

    def _podman(self, *words: str) -> None:
        if find("podman") is None or not (self.home / "storage.conf").exists():
            return
        with contextlib.suppress(processes.EngineError, KeyError):  # a store that was never used; no such account
            pwd.getpwnam(rootless.USER)
            processes.run([need("podman"), *words], rootless.USER, self.environment)


ENGINES = (RootlessPodman(),)

"""Podman's Docker interface, with a store of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from . import mounts, processes, state
from .engine import Engine, Launch, find, need
from .probes import docker_answers

CONTAINERS = """\
[containers]
netns = "none"
log_driver = "k8s-file"
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
tmp_dir = "{home}/run/libpod"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{home}/graph"
runroot = "{home}/run"
"""
# A name without a registry's address in it must not be looked up anywhere.
REGISTRIES = "unqualified-search-registries = []\n"


class Podman(Engine):
    """A service that keeps no daemon: containers outlive it, so they are removed when it stops."""

    name = "podman"
    title = "Podman's Docker interface"
    programs: tuple[tuple[str, str], ...] = (
        ("podman", "podman"),
        ("crun", "crun"),
        ("conmon", "conmon"),
        ("/usr/*/catatonit", "catatonit"),
        ("/bin/busybox", "busybox-static"),
    )
    units = ("podman.service", "podman.socket", "podman-auto-update.timer", "podman-restart.service")
    keys = ("MEDPERF_TEST_PODMAN",)

    @property
    def environment(self) -> dict[str, str]:
        """Its own settings instead of the machine's."""
        names = {"CONTAINERS_CONF": "containers", "CONTAINERS_STORAGE_CONF": "storage"}
        files = {key: f"{self.home}/{name}.conf" for key, name in names.items()}
        files["CONTAINERS_REGISTRIES_CONF"] = f"{self.home}/registries.conf"
        folders = {"TMPDIR": f"{self.home}/tmp", "HOME": str(self.home), "XDG_RUNTIME_DIR": f"{self.home}/run"}
        return processes.environment(**files, **folders)

    def prepare(self, ports: Mapping[str, int]) -> Launch:
        mounts.mount_cgroups()
        for folder in (self.home, self.home / "tmp", self.home / "run"):
            folder.mkdir(mode=0o711, exist_ok=True)
        for name, text in (("containers", CONTAINERS), ("storage", STORAGE), ("registries", REGISTRIES)):
            state.write(self.home / f"{name}.conf", text.format(home=self.home))
        socket = self.home / "podman.sock"
        socket.unlink(missing_ok=True)
        argv = [need("podman"), "system", "service", "--time=0", f"unix://{socket}"]
        return Launch(argv, {self.keys[0]: f"unix://{socket}"}, None, self.environment)

    def answers(self, values: Mapping[str, str]) -> bool:
        return docker_answers(values[self.keys[0]])

    def stop(self) -> None:
        self._end_containers()
        super().stop()
        mounts.unmount_below(self.home)

    def _end_containers(self) -> None:
        if find("podman") is None or not (self.home / "storage.conf").exists():
            return
        with contextlib.suppress(processes.EngineError):  # a store that was never used has none
            processes.run([need("podman"), "rm", "--all", "--force", "--time=0"], None, self.environment)


ENGINES = (Podman(),)

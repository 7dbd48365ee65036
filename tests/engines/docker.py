"""A Docker daemon that makes no bridge, no firewall rule and no private address."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from . import mounts, processes
from .engine import Engine, Launch, need
from .probes import docker_answers
from .processes import EngineError

SYSTEM = "unix:///var/run/docker.sock"
BRIDGE = Path("/sys/class/net/docker0")


class Docker(Engine):
    """Starts dockerd, or uses the daemon that is there and then never touches it."""

    name = "docker"
    title = "dockerd without a bridge"
    programs = (("dockerd", "docker.io"), ("/bin/busybox", "busybox-static"))  # the tests' images are busybox
    units = ("docker.service", "docker.socket", "containerd.service")
    keys = ("DOCKER_HOST",)

    @property
    def socket(self) -> str:
        """The address of the daemon that is started here."""
        return f"unix://{self.home}/docker.sock"

    @property
    def namespace(self) -> str:
        """A name in containerd's arguments that no other daemon has."""
        return "medperf-" + hashlib.sha256(str(self.home).encode()).hexdigest()[:12]

    def outside(self) -> str | None:
        """The address of a daemon that answers on this machine and was not started here."""
        for host in (os.environ.get("DOCKER_HOST", ""), SYSTEM):
            if host and host != self.socket and docker_answers(host):
                return host
        return None

    def missing(self) -> list[str]:
        return [name for name in super().missing() if name != "docker.io" or not self.outside()]

    def plan(self) -> str:
        asked = os.environ.get("DOCKER_HOST", "")
        words = ""
        if asked and urlsplit(asked).scheme and asked != self.socket and not docker_answers(asked):
            words = f" DOCKER_HOST={asked} is left aside: no daemon of this machine answers there."
        if host := self.outside():
            return f"Uses the Docker daemon that answers at {host} as it is; it is never stopped from here.{words}"
        if mounts.missing_cgroups():
            words += f" Mounts cgroup controllers below {mounts.ROOT} ({', '.join(mounts.missing_cgroups())})."
        return f"{super().plan()}{words}"

    def prepare(self, ports: Mapping[str, int]) -> Launch:
        if len(f"{self.home}/exec/containerd/containerd.sock.ttrpc") > 107:
            raise EngineError(f"{self.home} is too long a path for a socket: set MEDPERF_ENGINES_DIR to a shorter one")
        if BRIDGE.exists():
            raise EngineError(
                "the network link docker0 exists, so another Docker daemon has a bridge, but none answers: one started "
                "beside it would delete that link. Start that daemon, or name it in DOCKER_HOST, or remove it."
            )
        mounts.mount_cgroups()
        self.home.mkdir(mode=0o711, exist_ok=True)
        # What `stop` ended may stay a zombie for a while, and is taken for alive by who reads these files.
        for stale in ("dockerd.pid", "exec/containerd/containerd.pid"):
            (self.home / stale).unlink(missing_ok=True)
        settings = self.home / "daemon.json"
        settings.write_text("{}\n")  # not the machine's /etc/docker/daemon.json
        argv = [need("dockerd"), "--config-file", str(settings), "-H", self.socket]
        argv += ["--data-root", f"{self.home}/data", "--exec-root", f"{self.home}/exec"]
        argv += ["--pidfile", f"{self.home}/dockerd.pid", "--log-level", "warn", "--shutdown-timeout", "5"]
        argv += ["--containerd-namespace", self.namespace]
        argv += ["--containerd-plugins-namespace", f"{self.namespace}-plugins"]
        argv += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        argv += ["--userland-proxy=false"]
        return Launch(argv, {"DOCKER_HOST": self.socket}, env=processes.environment(HOME=str(self.home)))

    def answers(self, values: Mapping[str, str]) -> bool:
        return docker_answers(values["DOCKER_HOST"])

    def running(self, values: Mapping[str, str]) -> bool:
        return super().running(values) if values["DOCKER_HOST"] == self.socket else self.answers(values)

    def start(self) -> dict[str, str]:
        host = self.outside()
        return {"DOCKER_HOST": host} if host else super().start()

    def stop(self) -> None:
        self._end_containers()  # dockerd would wait ten seconds for each that ignores its signal
        super().stop()
        self.clear()

    def clear(self) -> None:
        """End and unmount what a daemon of this folder that has gone left behind."""
        self._end_containers()
        for each in [each for each in processes.everything() if self._ours(each)]:
            processes.kill(each)
        mounts.unmount_below(self.home)

    def _end_containers(self) -> None:
        """End the first process of every container, and with it the others of that container."""
        now = list(processes.everything())
        shims = {each.pid for each in now if Path(each.arguments[0]).name.startswith("containerd-shim")}
        shims &= {each.pid for each in now if self._ours(each)}
        for each in now:
            if each.parent in shims:
                processes.kill(each)

    def _ours(self, process: processes.Stat) -> bool:
        """What a killed dockerd left behind, or a dockerd whose start was interrupted before it was recorded."""
        words = process.arguments
        if Path(words[0]).name.startswith("containerd-shim"):
            return ("-namespace", self.namespace) in itertools.pairwise(words)
        if Path(words[0]).name == "dockerd":
            return ("--containerd-namespace", self.namespace) in itertools.pairwise(words)
        return Path(words[0]).name == "containerd" and f"{self.home}/exec/containerd/containerd.toml" in words


ENGINES = (Docker(),)

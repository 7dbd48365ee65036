"""A Docker daemon of an unprivileged account. It shares the machine's network, without any right to change it."""

from __future__ import annotations

from collections.abc import Mapping

from . import processes, rootless
from .engine import Engine, Launch, need
from .probes import docker_answers
from .processes import EngineError

ADDRESS = "MEDPERF_TEST_DOCKER_ROOTLESS"


class RootlessDocker(Engine):
    """dockerd in a user namespace and a process namespace: when the first process ends, so does all of it."""

    name = "docker-rootless"
    title = "a rootless dockerd"
    programs = (
        ("dockerd", "docker.io"),
        ("rootlesskit", "rootlesskit"),
        ("newuidmap", "uidmap"),
        ("/bin/busybox", "busybox-static"),
    )
    units = ("docker.service", "docker.socket", "containerd.service")
    keys = (ADDRESS,)

    def plan(self) -> str:
        return f"{super().plan()}{rootless.planned()}"

    def prepare(self, ports: Mapping[str, int]) -> Launch:
        run = self.home / "run"
        if len(f"{run}/docker/containerd/containerd.sock.ttrpc") > 107:
            raise EngineError(f"{self.home} is too long a path for a socket: set MEDPERF_ENGINES_DIR to a shorter one")
        rootless.ensure_user()
        for folder in (self.home, run):
            rootless.own_folder(folder)
        settings = self.home / "daemon.json"
        settings.write_text("{}\n")  # not the machine's /etc/docker/daemon.json
        for stale in ("docker.pid", "docker/containerd/containerd.pid"):
            (run / stale).unlink(missing_ok=True)
        # The links that it copies from the machine's /run would lead to another daemon's folders.
        script = 'rm -f /run/docker /run/containerd; exec "$0" "$@"'
        argv = [need("rootlesskit"), "--net=host", "--pidns", f"--state-dir={run}/rootlesskit"]
        argv += ["--copy-up=/etc", "--copy-up=/run", "/bin/sh", "-c", script]
        argv += [need("dockerd"), "--rootless", "--config-file", str(settings), "-H", f"unix://{self.home}/docker.sock"]
        argv += ["--data-root", f"{self.home}/data", "--exec-root", f"{run}/docker", "--pidfile", f"{run}/docker.pid"]
        argv += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        argv += ["--userland-proxy=false", "--log-level", "warn", "--shutdown-timeout", "5"]
        env = processes.environment(HOME=str(self.home), XDG_RUNTIME_DIR=str(run))
        return Launch(argv, {ADDRESS: f"unix://{self.home}/docker.sock"}, rootless.USER, env)

    def answers(self, values: Mapping[str, str]) -> bool:
        return docker_answers(values[ADDRESS])


ENGINES = (RootlessDocker(),)

"""Two OCI registries (Debian's docker-registry): one open, one that asks for a name and a password."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping

from . import processes, state
from .engine import Engine, Launch, need
from .probes import http_status

ACCOUNT = "docker-registry"
USER = "medperf"
PASSWORD = "local-only"  # of a server that only this machine reaches
ADDRESS = "MEDPERF_TEST_REGISTRY"


class Registry(Engine):
    """An open registry."""

    name = "registry"
    title = "an OCI registry"
    programs: tuple[tuple[str, str], ...] = (("docker-registry", "docker-registry"),)
    units = ("docker-registry.service",)
    keys: tuple[str, ...] = (ADDRESS,)
    port_names = ("http",)

    def settings(self, port: int) -> dict[str, object]:
        """The registry's settings."""
        return {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": f"{self.home}/data"}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{port}", "secret": PASSWORD},
        }

    def prepare(self, ports: Mapping[str, int]) -> Launch:
        self.home.mkdir(mode=0o755, exist_ok=True)
        (self.home / "data").mkdir(mode=0o750, exist_ok=True)
        shutil.chown(self.home / "data", ACCOUNT, ACCOUNT)
        config = self.home / "config.yml"  # JSON is YAML too
        state.write(config, json.dumps(self.settings(ports["http"]), indent=1))
        env = processes.environment(OTEL_TRACES_EXPORTER="none")
        argv = [need("docker-registry"), "serve", str(config)]
        return Launch(argv, {self.keys[0]: f"127.0.0.1:{ports['http']}"}, ACCOUNT, env)

    def answers(self, values: Mapping[str, str]) -> bool:
        return http_status(f"http://{values[self.keys[0]]}/v2/") == 200


class ClosedRegistry(Registry):
    """A registry with basic authentication."""

    name = "registry-auth"
    title = "an OCI registry with basic authentication"
    programs = (*Registry.programs, ("htpasswd", "apache2-utils"))
    keys = (f"{ADDRESS}_AUTH", f"{ADDRESS}_USER", f"{ADDRESS}_PASSWORD")

    def settings(self, port: int) -> dict[str, object]:
        users = {"realm": "medperf-engines", "path": f"{self.home}/htpasswd"}
        return {**super().settings(port), "auth": {"htpasswd": users}}

    def prepare(self, ports: Mapping[str, int]) -> Launch:
        launch = super().prepare(ports)
        state.write(self.home / "htpasswd", processes.run([need("htpasswd"), "-Bbn", USER, PASSWORD]))
        _, user, password = self.keys
        return Launch(launch.argv, {**launch.values, user: USER, password: PASSWORD}, launch.user, launch.env)

    def answers(self, values: Mapping[str, str]) -> bool:
        address, user, password = (values[key] for key in self.keys)
        return http_status(f"http://{address}/v2/", login=(user, password)) == 200


ENGINES = (Registry(), ClosedRegistry())

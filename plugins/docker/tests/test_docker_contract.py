"""The Docker runner passes the kit, on the image that the kit makes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from docker.errors import APIError
from medperf_docker.container import OWNER_LABEL
from medperf_docker.plugin import DockerSettings, medperf_runners

from medperf_core.entities.image import IdentityKind
from medperf_core.plugin import RunnerPlugin
from medperf_core.plugin.processes import start_time
from medperf_core.plugin.testing import RunnerContract
from medperf_core.plugin.testing.probe_image import Probe
from medperf_core.plugin.testing.runner_kit import MakeSource, Traces
from medperf_core.plugin.testing.runner_syscalls import SystemCallTests


@pytest.fixture(scope="module")
def probes(client: Any) -> Iterator[list[Probe]]:
    """The probes that were made; their images are removed from the daemon at the end."""
    made: list[Probe] = []
    yield made
    for probe in made:
        try:
            client.remove_image(config_of(probe), force=True)
        except APIError:
            pass


def config_of(probe: Probe) -> str:
    return probe.known(probe.archive)[IdentityKind.CONFIG].digest


class TestDockerRunner(RunnerContract, SystemCallTests):
    """As a stranger would test it, and with a look at the daemon's own lists."""

    @pytest.fixture
    def plugin(self) -> RunnerPlugin:
        return next(iter(medperf_runners()))

    @pytest.fixture
    def settings(self, docker_host: str) -> DockerSettings:
        return DockerSettings(host=docker_host)

    @pytest.fixture
    def image(self, probes: list[Probe]) -> MakeSource:
        def archive(probe: Probe) -> Any:
            probes.append(probe)
            return probe.archive

        return archive

    @pytest.fixture
    def traces(self, client: Any, probes: list[Probe]) -> Traces:
        def found() -> list[str]:
            """This program's containers, and those images of the probes that the daemon has."""
            owner = f".{os.getpid()}.{start_time(os.getpid())}"
            containers = client.containers(all=True, filters={"label": "medperf=1"})
            names = [each["Id"] for each in containers if each["Labels"].get(OWNER_LABEL, "").endswith(owner)]
            for digest in {config_of(probe) for probe in probes}:
                try:
                    client.inspect_image(digest)
                    names.append(f"image {digest}")
                except APIError:
                    continue
            return names

        return found

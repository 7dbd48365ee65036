"""The hook. Light: the Docker SDK is imported when the runner first talks to a daemon."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from medperf_core.plugin import RunnerPlugin, hookimpl, setting

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext, Runner


@attrs.frozen
class DockerSettings:
    """What can be set for the ``docker`` runner."""

    host: str = setting(
        "",
        "Address of the Docker daemon, such as unix:///run/docker.sock; by default DOCKER_HOST, then the current "
        "docker context, then the standard socket.",
    )
    run_as: str = setting(
        "65534:65534",
        "UID:GID that tasks run as when medperf itself runs as root; otherwise they run as whoever runs medperf.",
    )
    build_args: tuple[str, ...] = setting(
        (), "NAME=VALUE for the build of an image from its source tree, such as BASE_IMAGE=...; may be repeated."
    )
    build_network: str = setting("none", "Network of the RUN steps of such a build: none, host, or a network's name.")


def make(settings: DockerSettings, context: BackendContext) -> Runner:
    """The runner; opens no connection."""
    from medperf_docker.runner import DockerRunner

    return DockerRunner(settings, context)


@hookimpl
def medperf_runners() -> Iterable[RunnerPlugin]:
    """Offers the ``docker`` runner."""
    yield RunnerPlugin(
        name="docker",
        summary="runs container tasks with Docker (or Podman's Docker interface)",
        settings=DockerSettings,
        api=1,
        make=make,
    )

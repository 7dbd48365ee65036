"""The hook. Light: the engine is looked for when the runner is first used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from medperf_core.plugin import RunnerPlugin, hookimpl, setting

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext, Runner


@attrs.frozen
class SingularitySettings:
    """What can be set for the ``singularity`` runner, which is the ``apptainer`` runner too."""

    program: str = setting(
        "",
        "Path or name of the program, such as /opt/apptainer/bin/apptainer; by default apptainer, then singularity, "
        "whichever is found first.",
    )
    run_as: str = setting(
        "65534:65534",
        "UID:GID that tasks run as when medperf itself runs as root; otherwise they run as whoever runs medperf.",
    )
    docker_host: str = setting(
        "",
        "Socket of a local Docker daemon whose images may be used too, such as unix:///run/docker.sock; by default "
        "DOCKER_HOST, then the standard socket; 'none' for never.",
    )
    build_args: tuple[str, ...] = setting(
        (), "NAME=VALUE for the build of an image from its source tree, such as BASE_IMAGE=...; may be repeated."
    )


def make(settings: SingularitySettings, context: BackendContext) -> Runner:
    """The runner; starts no program."""
    from medperf_singularity.runner import SingularityRunner

    return SingularityRunner(settings, context)


@hookimpl
def medperf_runners() -> Iterable[RunnerPlugin]:
    """Offers the ``singularity`` runner, which ``apptainer`` selects too."""
    yield RunnerPlugin(
        name="singularity",
        summary="runs container tasks with Apptainer or Singularity",
        settings=SingularitySettings,
        api=1,
        make=make,
        aliases=("apptainer",),
    )

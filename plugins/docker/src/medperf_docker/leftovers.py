"""What runs that were killed left in the engine: containers that go on, and names of builds and of
loaded images that were never finished."""

from __future__ import annotations

from medperf_core.errors import MedperfError
from medperf_core.plugin import BackendContext, Notice
from medperf_core.plugin.processes import is_orphan, machine
from medperf_docker import images
from medperf_docker.connect import Client, Connection
from medperf_docker.container import LABEL, OWNER_LABEL


def remove_leftovers(connection: Connection, context: BackendContext) -> int:
    """Remove what programs of this machine that are gone left behind; how many containers that were.

    Containers of other machines that use the same daemon, and those of programs that still run, are not touched.
    """
    try:
        with connection.client("look for what killed runs left") as client:
            removed = _containers(client)
            _names(client)
    except MedperfError:
        return 0  # whatever is wrong with the engine is said by what really needs it
    if removed:
        context.emit(Notice(f"Removed {removed} containers that a killed run had left in Docker."))
    return removed


def _containers(client: Client) -> int:
    removed = 0
    for container in client.containers(all=True, filters={"label": f"{LABEL}=1"}):
        host, _, marker = str((container.get("Labels") or {}).get(OWNER_LABEL, "")).partition(".")
        if host == machine() and is_orphan(marker):
            client.remove_container(container["Id"], force=True, v=True)
            removed += 1
    return removed


def _names(client: Client) -> None:
    for image in client.images(name=images.KEPT):
        for name in image.get("RepoTags") or ():
            marker = name.removeprefix(f"{images.KEPT}:{images.UNFINISHED}")
            if marker != name and is_orphan(marker):
                client.remove_image(name, noprune=False)

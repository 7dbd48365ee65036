"""A container's life: made, watched to its end, and removed in every case."""

from __future__ import annotations

import re
import time

import attrs

from medperf_core.errors import MedperfError
from medperf_core.plugin import BackendContext, Notice
from medperf_core.plugin.tasklog import TaskLogWriter
from medperf_docker.connect import Client, Connection
from medperf_docker.container import Container, create_arguments
from medperf_docker.watch import Ended, Watch

_NO_INIT = re.compile(r"docker-init|catatonit|init binary", re.IGNORECASE)


def execute(
    connection: Connection,
    context: BackendContext,
    plan: Container,
    log: TaskLogWriter,
    time_limit: float | None,
    *,
    podman: bool,
) -> Ended:
    """Run a container to its end. Nothing of it is left when this returns or raises.

    Args:
        time_limit: seconds in total; None for no limit.
        podman: whether the engine is Podman, which does not tell that memory ran out.

    Raises:
        ExecutionError: the engine could not run it.
        CancelledError: the context's cancel token was set.
    """
    context.cancel.raise_if_cancelled()
    doing = f"run the task in the container {plan.name}"
    try:
        with connection.client(doing) as client, connection.client(doing, patient=True) as patient:
            created = _create(client, context, plan)
            return Watch(client, patient, context, created, log, time_limit, podman).run(doing)
    finally:
        remove(connection, context, plan)


def _create(client: Client, context: BackendContext, plan: Container) -> Container:
    from docker.errors import APIError

    context.cancel.raise_if_cancelled()
    try:
        client.create_container(**create_arguments(client, plan))
    except APIError as error:
        if not plan.init or not _NO_INIT.search(str(error.explanation)):
            raise
        plan = attrs.evolve(plan, init=False)
        client.create_container(**create_arguments(client, plan))
    return plan


def remove(connection: Connection, context: BackendContext, plan: Container) -> None:
    """Kill and remove a container and its volumes, also if it is being removed already or was never made."""
    problem = ""
    for pause in (0.0, 0.1, 0.3, 1.0, 3.0):
        time.sleep(pause)
        try:
            with connection.client(f"remove the container {plan.name}") as client:
                if _gone(client, plan):
                    return
        except MedperfError as error:
            problem = str(error)
    context.emit(Notice(f"{problem} Remove it by hand: docker rm --force --volumes {plan.name}".strip(), "warning"))


def _gone(client: Client, plan: Container) -> bool:
    """Remove what is there; whether all of it is gone."""
    from docker.errors import APIError

    try:
        client.remove_container(plan.name, force=True, v=True)
    except APIError as error:
        if error.status_code == 409:  # its removal is in progress
            return False
        if error.status_code != 404:
            raise
    for name in plan.volume_names:
        try:
            client.remove_volume(name)
        except APIError as error:
            if error.status_code != 404:
                raise
    return True

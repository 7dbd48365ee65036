"""The runner."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from medperf_core.entities.image import ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import ExecutionError
from medperf_core.plugin import (
    BackendContext,
    Capabilities,
    Check,
    Condition,
    Notice,
    PreparedImage,
    Runner,
    TaskOutcome,
    TaskRequest,
)
from medperf_core.plugin.handover import handed_over, parse_account, unreadable
from medperf_core.plugin.identities import DIGEST
from medperf_core.plugin.tasklog import TaskLogWriter
from medperf_docker import archive, build, images, registry
from medperf_docker.account import Account, account
from medperf_docker.connect import Connection, understood
from medperf_docker.container import Container, command_line, describe
from medperf_docker.daemon import Daemon, capabilities, probe
from medperf_docker.execute import execute
from medperf_docker.leftovers import remove_leftovers
from medperf_docker.save import save
from medperf_docker.syscalls import Filter, find_filter

if TYPE_CHECKING:
    from medperf_docker.plugin import DockerSettings


class DockerRunner(Runner):
    """Runs tasks on one Docker daemon. The daemon is asked about itself once, when it is first needed."""

    def __init__(self, settings: DockerSettings, context: BackendContext) -> None:
        self._settings, self._context = settings, context
        self._connection = Connection(settings.host, context)
        self._cleaned = False

    @cached_property
    def _daemon(self) -> Daemon:
        return probe(self._connection)

    @cached_property
    def _filter(self) -> Filter | None:
        with understood("tell whether it can filter system calls"):
            return find_filter(self._connection, self._daemon, self._context)

    @cached_property
    def _account(self) -> Account:
        return account(self._daemon, self._connection.endpoint, self._settings.run_as)

    def capabilities(self) -> Capabilities:
        root_inside = self._account.uid == 0
        address, filtered = self._connection.endpoint.address, self._filter is not None
        found = capabilities(self._daemon, address, root_inside=root_inside, filtered=filtered)
        conditions = {Condition.TMP_SIZE, Condition.WORKING_DIR}
        if os.geteuid() == 0 and not self._daemon.rootless:  # only root can hand outputs over to anybody
            conditions.add(Condition.USER)
        return attrs.evolve(found, conditions=frozenset(conditions))

    def _who(self, request: TaskRequest) -> Account:
        if not request.user:
            return self._account
        uid, gid = parse_account(request.user)
        return Account(request.user, uid, gid, self._account.userns)

    def supports(self, source: ImageSource) -> bool:
        if source.kind is SourceKind.TREE:
            return source.dockerfile is not None
        return source.kind in (SourceKind.REGISTRY, SourceKind.ARCHIVE)

    def prepare(self, source: ImageSource, expected: Iterable[ImageIdentity] = ()) -> PreparedImage:
        if not self._cleaned:
            self._cleaned = True
            remove_leftovers(self._connection, self._context)
        wanted = tuple(expected)
        with understood(f"prepare the image {source}"):
            if source.kind is SourceKind.REGISTRY:
                return registry.prepare(self._connection, self._daemon, self._context, source, wanted)
            if source.kind is SourceKind.ARCHIVE:
                return archive.prepare(self._connection, self._daemon, self._context, source, wanted)
            if source.kind is SourceKind.TREE:
                return build.prepare(self._connection, self._daemon, self._context, self._settings, source, wanted)
        raise ExecutionError(f"Docker cannot run the image {source}.", hint="Use the singularity runner for it.")

    def save(self, prepared: PreparedImage, folder: Path) -> Path:
        with understood(f"save the image {prepared.source}"):
            return save(self._connection, self._context, prepared, folder)

    def run(self, prepared: PreparedImage, request: TaskRequest) -> TaskOutcome:
        plan, who = self._plan(prepared, request), self._who(request)
        for path in unreadable(plan.binds, who.uid, who.gid):
            self._context.emit(
                Notice(
                    f"{path} is not readable for the account {who.uid} that the task runs as; if it fails, "
                    f"change its permissions or set --docker-run-as.",
                    "warning",
                )
            )
        started = datetime.now(UTC).isoformat(timespec="seconds")
        with (
            TaskLogWriter(request.log, request.task.name, self._context.emit) as log,
            handed_over(plan.binds, who.uid, who.gid),
        ):
            ended = execute(self._connection, self._context, plan, log, request.time_limit, podman=self._daemon.podman)
        return TaskOutcome(
            exit_code=ended.exit_code,
            started=started,
            seconds=ended.seconds,
            engine=self._daemon.engine,
            images=prepared.identities,
            tail=log.tail,
            log_bytes=log.bytes,
            log_truncated=log.truncated,
            timed_out=ended.timed_out,
            out_of_memory=ended.out_of_memory,
            too_many_processes=ended.too_many_processes,
            peak_memory=ended.peak_memory,
            waivers=request.waivers,
            limits=_limits(plan, request.time_limit, by_ulimit=request.resources.processes is not None),
            command=command_line(plan, self._settings.host),
        )

    def command_line(self, prepared: PreparedImage, request: TaskRequest) -> tuple[str, ...]:
        return command_line(self._plan(prepared, request), self._settings.host)

    def doctor(self) -> Iterable[Check]:
        from medperf_docker.doctor import checks

        return checks(self._connection, self._context)

    def _plan(self, prepared: PreparedImage, request: TaskRequest) -> Container:
        if not DIGEST.fullmatch(prepared.reference):
            raise ExecutionError(f"{prepared.reference[:80]!r} is not an image ID; only prepared images are run.")
        with self._connection.client("look up the prepared image") as client:
            image = images.inspect(client, prepared.reference)
            if image is None:
                raise ExecutionError(
                    f"The image {prepared.reference} of {prepared.source} is no longer in Docker's store.",
                    hint="Run the command again: it is then fetched again.",
                )
            who, run = self._who(request), secrets.token_hex(8)
            return describe(image, prepared.reference, request, who, self._daemon, self._filter, run)


def _limits(plan: Container, time_limit: float | None, *, by_ulimit: bool) -> dict[str, str]:
    held, watched = {}, plan.watched
    if memory := plan.memory or watched.memory:
        held["memory"] = f"{'engine' if plan.memory else 'polled'} {memory / (1 << 30):g} GiB"
    if processes := plan.processes or watched.processes:
        held["processes"] = f"{'engine' if plan.processes else 'polled'} {processes}"
    elif by_ulimit and "nproc" in plan.ulimits:
        held["processes"] = f"polled {plan.ulimits['nproc']} (resource limit, with the account's other processes)"
    if cpus := plan.cpus or watched.cpus:
        held["cpu"] = f"{'engine' if plan.cpus else 'polled'} {cpus:g}"
    if time_limit is not None:
        held["time"] = f"polled {time_limit:g} s"
    return held

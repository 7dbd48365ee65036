"""The hooks of ``medperf_core``, each with an example that runs.

A plugin is a module (or any object) that an entry point of the group ``medperf`` names::

    [project.entry-points.medperf]
    my-plugin = "my_package.plugin"

It implements hooks with ``@hookimpl``. Keep the module light: it is imported at every start, so import what is
heavy inside the factory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from medperf_core.plugin.descriptors import (
        ExecutorPlugin,
        PackagerPlugin,
        RunnerPlugin,
        ServerPlugin,
        StoragePlugin,
    )
    from medperf_core.plugin.doctor import Check
    from medperf_core.plugin.events import Event
    from medperf_core.plugin.policy import Action, Decision, PolicySubject

PROJECT = "medperf"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class MedperfSpecs:
    """All hooks."""

    @hookspec
    def medperf_runners(self) -> Iterable[RunnerPlugin]:  # type: ignore[empty-body]
        """Runners: engines that run container tasks on this machine.

        **Example:**

        .. code-block:: python

            from medperf_core.plugin import RunnerPlugin, hookimpl

            def make(settings, context):
                from my_package.runner import MyRunner   # heavy imports stay in here
                return MyRunner(settings, context)

            @hookimpl
            def medperf_runners():
                yield RunnerPlugin(name="mine", summary="runs tasks with my engine", api=1, make=make)

        Returns:
            Descriptors; their names must be unique among all runners.
        """

    @hookspec
    def medperf_packagers(self) -> Iterable[PackagerPlugin]:  # type: ignore[empty-body]
        """Packagers: readers of manifest formats.

        **Example:**

        .. code-block:: python

            from medperf_core.plugin import PackagerPlugin, hookimpl

            def make(settings):
                from my_package.packager import MyPackager
                return MyPackager()

            @hookimpl
            def medperf_packagers():
                yield PackagerPlugin(name="my-format", summary="reads my-format.yaml", api=1, make=make)

        Returns:
            Descriptors; their names must be unique among all packagers.
        """

    @hookspec
    def medperf_storages(self) -> Iterable[StoragePlugin]:  # type: ignore[empty-body]
        """Stores: places that files are fetched from, chosen by a URL's scheme.

        **Example:**

        .. code-block:: python

            from medperf_core.plugin import StoragePlugin, hookimpl

            def make(settings, context):
                from my_package.storage import MyStorage
                return MyStorage(settings, context)

            @hookimpl
            def medperf_storages():
                yield StoragePlugin(name="mine", summary="files on my store", api=1, schemes=("mine",), make=make)

        Returns:
            Descriptors; a scheme must be served by one store only.
        """

    @hookspec
    def medperf_servers(self) -> Iterable[ServerPlugin]:  # type: ignore[empty-body]
        """Server clients, chosen by the scheme of the profile's server address.

        **Example:**

        .. code-block:: python

            from medperf_core.plugin import ServerPlugin, hookimpl

            def make(address, settings, context):
                from my_package.client import MyClient
                return MyClient(address, context)

            @hookimpl
            def medperf_servers():
                yield ServerPlugin(name="mine", summary="my registry", api=1, schemes=("mine",), make=make)

        Returns:
            Descriptors; a scheme must be served by one client only.
        """

    @hookspec
    def medperf_executors(self) -> Iterable[ExecutorPlugin]:  # type: ignore[empty-body]
        """Executors: ways to bring a task to a machine.

        **Example:**

        .. code-block:: python

            from medperf_core.plugin import ExecutorPlugin, hookimpl

            def make(settings, context, run):
                from my_package.executor import MyExecutor
                return MyExecutor(settings, context)

            @hookimpl
            def medperf_executors():
                yield ExecutorPlugin(name="mine", summary="runs tasks on my cluster", api=1, make=make)

        Returns:
            Descriptors; their names must be unique among all executors.
        """

    @hookspec
    def medperf_policy(self, action: Action, subject: PolicySubject) -> Decision:  # type: ignore[empty-body]
        """Allow or deny that a task runs or that bytes leave the site.

        Every plugin that implements it must allow; an exception denies. A profile can demand by
        ``required_plugins`` that a plugin is there.

        **Example:**

        .. code-block:: python

            from medperf_core.plugin import Action, Decision, hookimpl

            @hookimpl
            def medperf_policy(action, subject):
                if action is not Action.SEND and subject.owner not in ("user 7", "local"):
                    return Decision(False, f"{subject.owner} is not a partner of this hospital")
                return Decision(True)

        Returns:
            A decision.
        """

    @hookspec
    def medperf_event(self, event: Event) -> None:
        """Observe what happens. A failure in here is logged and never breaks a run.

        **Example:**

        .. code-block:: python

            from medperf_core.plugin import StepFinished, hookimpl

            @hookimpl
            def medperf_event(event):
                if isinstance(event, StepFinished):
                    print("done:", event.what)
        """

    @hookspec
    def medperf_doctor(self) -> Iterable[Check]:  # type: ignore[empty-body]
        """Checks that ``medperf doctor`` shows. Backends have a ``doctor`` method for their own.

        **Example:**

        .. code-block:: python

            import shutil
            from medperf_core.plugin import Check, Health, hookimpl

            @hookimpl
            def medperf_doctor():
                free = shutil.disk_usage("/").free // 2**30
                health = Health.OK if free > 20 else Health.WARNING
                yield Check("disk", health, f"{free} GiB free on /", "" if free > 20 else "Free some room.")

        Returns:
            Checks.
        """

    @hookspec
    def medperf_commands(self, group: click.Group) -> None:
        """Add commands to ``medperf``. Called when help is shown or a command is not known otherwise.

        **Example:**

        .. code-block:: python

            import click
            from medperf_core.plugin import hookimpl

            @hookimpl
            def medperf_commands(group):
                @group.command("hello")
                def hello():
                    "Say hello."
                    click.echo("hello")

        Args:
            group: the root command. A name that exists already is refused.
        """

"""What the hooks return: one frozen descriptor per backend. The heavy part is imported by its factory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from medperf_core.plugin.settings import NoSettings

if TYPE_CHECKING:  # descriptors are read at every start, so nothing that they only name is imported
    from medperf_core.plugin.context import BackendContext, CancelToken
    from medperf_core.plugin.events import Event
    from medperf_core.plugin.executor import Executor, TaskJob
    from medperf_core.plugin.packager import Packager
    from medperf_core.plugin.runner import Runner, TaskOutcome
    from medperf_core.plugin.server import ServerClient
    from medperf_core.plugin.storage import Storage

    RunJob = Callable[[TaskJob, Callable[[Event], None], CancelToken], TaskOutcome]


@attrs.frozen(kw_only=True)
class Descriptor:
    """What all descriptors say.

    Attributes:
        name: the name that users select it by, lower case.
        summary: one line for lists.
        settings: attrs class of its settings; see ``medperf_core.plugin.settings``.
        api: version of the seam's API that it was written for; see the class's ``API``.
        aliases: other names that select it.
    """

    seam: ClassVar[str]
    API: ClassVar[int]

    name: str
    summary: str
    settings: type = NoSettings
    api: int
    aliases: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class RunnerPlugin(Descriptor):
    """A runner. ``make(settings, context)`` returns it."""

    seam: ClassVar[str] = "runner"
    API: ClassVar[int] = 1
    make: Callable[[Any, BackendContext], Runner]


@attrs.frozen(kw_only=True)
class PackagerPlugin(Descriptor):
    """A packager. ``make(settings)`` returns it; it needs nothing of the site."""

    seam: ClassVar[str] = "packager"
    API: ClassVar[int] = 1
    make: Callable[[Any], Packager]


@attrs.frozen(kw_only=True)
class StoragePlugin(Descriptor):
    """A store. ``make(settings, context)`` returns it.

    Attributes:
        schemes: URL schemes that it serves, without ``:``.
        credentials: names of the fields that ``context.credentials(NAME)`` may hold for it, in the order in which
            ``medperf auth store NAME`` asks for them. NAME is a scheme of its, or an address of one.
        check_credentials: looks at such fields before they are stored, and asks nobody. Returns what the person should
            know, "" for nothing; raises a ``UsageError`` if they can be of no use.
    """

    seam: ClassVar[str] = "storage"
    API: ClassVar[int] = 1
    schemes: tuple[str, ...]
    credentials: tuple[str, ...] = ()
    check_credentials: Callable[[Mapping[str, str]], str] | None = None
    make: Callable[[Any, BackendContext], Storage]


@attrs.frozen(kw_only=True)
class ServerPlugin(Descriptor):
    """A server client. ``make(address, settings, context)`` returns it.

    Attributes:
        schemes: address schemes that it serves, without ``:``, such as ``embedded``.
    """

    seam: ClassVar[str] = "server"
    API: ClassVar[int] = 1
    schemes: tuple[str, ...]
    make: Callable[[str, Any, BackendContext], ServerClient]


@attrs.frozen(kw_only=True)
class ExecutorPlugin(Descriptor):
    """An executor. ``make(settings, context, run)`` returns it.

    ``run(job, emit, cancel)`` probes, verifies and runs a job on this machine, as ``medperf_core.plugin.worker`` does
    on another one; ``emit`` is told what happens, ``cancel`` stops it.
    """

    seam: ClassVar[str] = "executor"
    API: ClassVar[int] = 1
    make: Callable[[Any, BackendContext, RunJob], Executor]

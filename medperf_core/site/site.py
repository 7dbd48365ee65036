"""``Site``: what an embedding program and every journey hold. No global state, so two can live in one process."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import attrs

from medperf_core.errors import ConfigurationError, MedperfError, PluginError
from medperf_core.plugin.context import BackendContext, CancelToken
from medperf_core.plugin.descriptors import (
    Descriptor,
    ExecutorPlugin,
    PackagerPlugin,
    RunnerPlugin,
    ServerPlugin,
    StoragePlugin,
)
from medperf_core.plugin.events import Event, Notice, TaskLog
from medperf_core.plugin.manager import PluginManager
from medperf_core.plugin.policy import Action, PolicySubject
from medperf_core.plugin.settings import fields_of, make_settings
from medperf_core.site.approver import Approver, DenyAll
from medperf_core.site.cache_place import work_place
from medperf_core.site.credentials import CredentialStore
from medperf_core.site.home import Home
from medperf_core.site.options import Effective, SiteOptions, merge
from medperf_core.site.own_policy import check_policy
from medperf_core.site.profiles import Profile, ProfileStore
from medperf_core.site.redact import Redactor

if TYPE_CHECKING:
    from medperf_core.plugin.executor import Executor, TaskJob
    from medperf_core.plugin.isolation import Capabilities
    from medperf_core.plugin.packager import Packager
    from medperf_core.plugin.runner import Runner, TaskOutcome
    from medperf_core.plugin.server import ServerClient
    from medperf_core.plugin.storage import Storage
    from medperf_core.site.audit import AuditLog
    from medperf_core.site.bundles import LoadedBundle
    from medperf_core.site.cache import Cache
    from medperf_core.site.data_folders import DataFolders
    from medperf_core.site.digest_cache import DigestCache
    from medperf_core.site.door import Door
    from medperf_core.site.egress import EgressGate
    from medperf_core.site.fetch import Fetched, Fetcher, Origin, Wanted
    from medperf_core.site.jobs import JobNotes
    from medperf_core.site.outbox import Outbox
    from medperf_core.site.records import Records
    from medperf_core.site.uploads import Uploads

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Site:
    """One profile of one home folder, with its plugins, cache, records and door out.

    Open it with ``Site.open`` and close it, best as a context manager::

        with Site.open() as site:
            report = run_test(site, benchmark=1, model="my_model/mlcube")
    """

    def __init__(
        self,
        home: Home,
        profiles: ProfileStore,
        profile_name: str,
        options: SiteOptions,
        approver: Approver,
        on_event: Callable[[Event], None] | None,
        environment: Mapping[str, str],
        plugins: PluginManager | None,
        redact: Redactor | None,
    ) -> None:
        self.home = home
        self.profiles = profiles
        self.profile_name = profile_name
        self.profile: Profile = profiles.get(profile_name)
        self.environment = environment
        self.options = options
        self.effective: Effective = merge(self.profile, options, environment)
        self.approver = approver
        self.cancel = CancelToken()
        self.redact = redact or Redactor()
        self.credentials = CredentialStore(
            home, self.redact.add, place=self.profile.credentials, warn=partial(self.notice, level="warning")
        )
        self._on_event = on_event
        self._plugins = plugins
        self._closing = ExitStack()

    @classmethod
    def open(
        cls,
        home: Path | None = None,
        *,
        profile: str | None = None,
        options: SiteOptions | None = None,
        approver: Approver | None = None,
        on_event: Callable[[Event], None] | None = None,
        environment: Mapping[str, str] | None = None,
        plugins: PluginManager | None = None,
        redact: Redactor | None = None,
    ) -> Self:
        """Open a site.

        Args:
            home: its folder; None for ``MEDPERF_HOME`` or ``~/.medperf``. Made when it is not there.
            profile: a profile's name; None for ``MEDPERF_PROFILE`` or the active one.
            options: what overrides the profile.
            approver: is asked before anything leaves the site; None denies everything.
            on_event: is told what happens.
            environment: variables; None for those of the process.
            plugins: None for the installed ones.
            redact: learns the site's secrets, for a log that is kept of it; None for one of its own.

        Raises:
            ConfigurationError: the home folder or the profile cannot be used.
        """
        variables = os.environ if environment is None else environment
        opened = Home.open(home, environment=variables)
        profiles = ProfileStore(opened)
        name = profile or variables.get("MEDPERF_PROFILE") or profiles.active_name
        return cls(
            opened,
            profiles,
            name,
            options or SiteOptions(),
            approver or DenyAll(),
            on_event,
            variables,
            plugins,
            redact,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def on_platform(self, platform: str) -> Site:
        """The same site with another runner; it is closed by itself and cancelled with this one.

        Raises:
            PluginError: no plugin has a runner of that name.
        """
        self.plugins.get(RunnerPlugin, platform)
        other = Site(
            self.home,
            self.profiles,
            self.profile_name,
            attrs.evolve(self.options, platform=platform),
            self.approver,
            self._on_event,
            self.environment,
            self.plugins,
            self.redact,
        )
        other.cancel = self.cancel.child()
        if "bundles" in self.__dict__:  # what is left out is told once
            other.bundles = self.bundles
        return other

    def close(self) -> None:
        """Remove the temporary folder of this site; open it anew to go on."""
        self._closing.close()
        for name in ("temp", "cache_dir"):
            self.__dict__.pop(name, None)

    # --- what happens ---------------------------------------------------------------------------------------------

    def emit(self, event: Event) -> None:
        """Tell the log, the listener and the observers of plugins; a failure of theirs goes no further."""
        if not isinstance(event, TaskLog):
            logger.info("%s", event)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                logger.warning("the listener failed", exc_info=True)
        self.plugins.notify(event)

    def notice(self, message: str, level: str = "info") -> None:
        """Tell the person at the site something in a sentence."""
        self.emit(Notice(message, level))

    # --- plugins and backends -------------------------------------------------------------------------------------

    @property
    def plugins(self) -> PluginManager:
        """The plugins, discovered when first needed."""
        if self._plugins is None:
            self._plugins = PluginManager.discover(self.profile.blocked_plugins, self.environment)
        return self._plugins

    def settings(self, descriptor: Descriptor) -> Any:
        """The settings in force for a backend."""
        settings: Any = make_settings(
            descriptor.name,
            descriptor.settings,
            options=self.options.settings.get(descriptor.name, {}),
            environment=self.environment,
            profile=self.profile.backends.get(descriptor.name, {}),
        )
        for field in fields_of(descriptor.name, descriptor.settings):
            if field.secret and getattr(settings, field.name):
                self.redact.add(str(getattr(settings, field.name)))
        return settings

    @cached_property
    def temp(self) -> Path:
        """A folder for the work in hand, on the disk of the cache; removed by ``close`` or, after a crash, by the next
        command."""
        place = work_place(self.home.path, self.cache_dir)
        return self._closing.enter_context(self.home.work_dir("site", place))

    @cached_property
    def cache_dir(self) -> Path:
        """The folder of the cache, which nobody moves until ``close``.

        Raises:
            ConfigurationError: it is being moved, or was moved to a disk that is not there now.
        """
        from medperf_core.site.cache_users import using

        return self._closing.enter_context(using(self.home))

    @contextmanager
    def work_folder(self, name: str) -> Iterator[Path]:
        """A new folder below ``temp`` for one piece of work; removed at its end."""
        folder = self.temp / f"{name}-{uuid.uuid4().hex[:12]}"
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def context(self) -> BackendContext:
        """What a backend may know of this site."""
        return BackendContext(
            cache_dir=self.cache_dir,
            temp_dir=self.temp,
            offline=self.effective.offline,
            proxies=self.profile.proxies,
            ca_bundle=Path(self.profile.ca_bundle) if self.profile.ca_bundle else None,
            waivers=frozenset(waiver.name for waiver in self.effective.waivers if waiver.image is None),
            credentials=self.credentials.get,
            emit=self.emit,
            cancel=self.cancel,
        )

    @cached_property
    def runner(self) -> Runner:
        """The runner of ``--platform`` or the profile."""
        descriptor = self.plugins.get(RunnerPlugin, self.effective.platform)
        return self.make_runner(descriptor)

    def make_runner(self, descriptor: RunnerPlugin) -> Runner:
        """The runner of a descriptor, which need not be the chosen one."""
        return _made(descriptor, lambda: descriptor.make(self.settings(descriptor), self.context))

    @cached_property
    def capabilities(self) -> Capabilities:
        """What the runner can give on this machine, probed once.

        Raises:
            ExecutionError: the engine cannot be used at all.
        """
        return self.runner.capabilities()

    @cached_property
    def jobs(self) -> JobNotes:
        """Notes of the jobs that were handed to an executor and have not ended."""
        from medperf_core.site.jobs import JobNotes

        return JobNotes(self.home, self.effective.executor)

    @cached_property
    def executor(self) -> Executor:
        """The executor of ``--executor`` or the profile."""
        from medperf_core.plugin.worker import run_job

        descriptor = self.plugins.get(ExecutorPlugin, self.effective.executor)
        context = self.context

        def run(job: TaskJob, emit: Callable[[Event], None], cancel: CancelToken) -> TaskOutcome:
            return run_job(job, self.plugins, attrs.evolve(context, emit=emit, cancel=cancel))

        return _made(descriptor, lambda: descriptor.make(self.settings(descriptor), context, run))

    @cached_property
    def packagers(self) -> tuple[Packager, ...]:
        """All packagers that can be made, in the order of their names; one that cannot is said and left out."""
        found = []
        for item in self.plugins.all(PackagerPlugin):
            try:
                found.append(_made(item, partial(self._make_packager, item)))
            except PluginError as error:
                self.notice(str(error), level="warning")
        return tuple(found)

    def _make_packager(self, descriptor: PackagerPlugin) -> Packager:
        return descriptor.make(self.settings(descriptor))

    def storage(self, scheme: str) -> Storage:
        """The store that serves a URL scheme."""
        descriptor = self.plugins.for_scheme(StoragePlugin, scheme)
        return _made(descriptor, lambda: descriptor.make(self.settings(descriptor), self.context))

    # --- the server -----------------------------------------------------------------------------------------------

    @cached_property
    def server(self) -> ServerClient:
        """The client of the profile's server; offline, what bundles that were loaded for this profile know of it.

        A registry in a file of this machine needs no connection and so is always asked itself.

        Raises:
            ConfigurationError: the profile names no server.
            PluginError: nobody serves this kind of address.
        """
        address = self.profile.server
        if self.effective.offline and not address.startswith("embedded:") and self.bundles:
            from medperf_core.site.offline_server import OfflineServer

            return OfflineServer(address, self.bundles)
        if not address:
            raise self._no_server()
        descriptor = self.plugins.for_scheme(ServerPlugin, address.partition(":")[0])
        # credentials are kept per profile, so that two profiles may be two users of one server
        context = attrs.evolve(self.context, credentials=lambda name: self.credentials.get(self.login_name(name)))
        return _made(descriptor, lambda: descriptor.make(address, self.settings(descriptor), context))

    def _no_server(self) -> ConfigurationError:
        words, hint = f"The profile {self.profile_name!r} names no server", ""
        if not self.effective.offline and self.bundles:
            hint = "Add --offline to work from the bundles that were loaded for it, or set one with: medperf profile "
            hint += "set --server ADDRESS"
        elif self.effective.offline:
            words += ", and it has no bundle that can be used"
            hint = "See: medperf bundle ls. Load one with: medperf bundle load FILE"
        return ConfigurationError(
            f"{words}.",
            hint=hint
            or "Set one with: medperf profile set --server embedded:PATH, or start with: medperf tutorial start model",
        )

    def login_name(self, server: str) -> str:
        """The name under which this profile's credentials for a server are stored."""
        return f"{self.profile_name} {server}"

    @cached_property
    def gate(self) -> EgressGate:
        """The one door out."""
        from medperf_core.site.egress import EgressGate

        return EgressGate(
            server=self.server,
            approver=self.approver,
            policies=self.permit,
            audit=self.audit,
            outbox=self.outbox,
            user=self.server.me().username,
            redact=self.redact,
        )

    @cached_property
    def door(self) -> Door:
        """The same door for what is no submission."""
        from medperf_core.site.door import Door

        return Door(self.approver, self.permit, self.audit, self.redact)

    @cached_property
    def uploads(self) -> Uploads:
        """Uploads of files, through the same door."""
        from medperf_core.site.uploads import Uploads

        return Uploads(self.door, self.audit, self.context)

    # --- what lies here -------------------------------------------------------------------------------------------

    @cached_property
    def cache(self) -> Cache:
        """The content-addressed store of fetched files."""
        from medperf_core.site.cache import Cache

        return Cache(self.cache_dir / "files")

    @cached_property
    def digests(self) -> DigestCache:
        """Hashes of inputs and kept outputs; what is unchanged since the last time is not read again."""
        from medperf_core.site.digest_cache import DigestCache

        return DigestCache(self.cache_dir / "digests")

    @cached_property
    def bundles(self) -> tuple[LoadedBundle, ...]:
        """The bundles that were loaded for this profile and may be used, the newest first; of the others it is told why
        not."""
        from medperf_core.site.bundle_trust import trusted
        from medperf_core.site.bundles import BundleStore

        found = trusted(BundleStore(self.home), self.profile_name, self.profile, self.effective.waivers)
        for sentence in found.left_out:
            self.notice(sentence, level="warning")
        return found.bundles

    def forget_bundles(self) -> None:
        """Look anew for bundles when they are next needed."""
        for name in ("bundles", "server"):
            self.__dict__.pop(name, None)

    @cached_property
    def records(self) -> Records:
        """The local records, such as test reports."""
        from medperf_core.site.records import Records

        return Records(self.home)

    @cached_property
    def data_folders(self) -> DataFolders:
        """The folders here that hold data, which no command uploads."""
        from medperf_core.site.data_folders import DataFolders

        return DataFolders(self.home)

    @cached_property
    def audit(self) -> AuditLog:
        """The hash-chained log of everything that left this site."""
        from medperf_core.site.audit import AuditLog

        return AuditLog(self.home.audit_dir)

    @cached_property
    def outbox(self) -> Outbox:
        """What was sent and not yet acknowledged."""
        from medperf_core.site.outbox import Outbox

        return Outbox(self.home)

    @cached_property
    def _fetcher(self) -> Fetcher:
        from medperf_core.site.fetch import Fetcher

        return Fetcher(self.cache, self.storage, self.context)

    def fetch(self, url: str, *, origin: Origin, sha256: str | None = None) -> Fetched:
        """Fetch a file, or take it from the cache, verified; see ``medperf_core.site.fetch``."""
        return self._fetcher.fetch(url, origin=origin, sha256=sha256)

    def fetch_all(self, wanted: Sequence[Wanted], *, origin: Origin) -> list[Fetched]:
        """Fetch several files beside each other."""
        return self._fetcher.fetch_all(wanted, origin=origin)

    @property
    def server_origin(self) -> Origin:
        """How far addresses in this server's replies are trusted."""
        from medperf_core.site.fetch import Origin

        return Origin.EMBEDDED if self.server.trusted_addresses else Origin.REMOTE

    # --- policy ---------------------------------------------------------------------------------------------------

    def permit(self, action: Action, subject: PolicySubject) -> None:
        """Let an action pass the profile's own policy and every plugin's.

        Raises:
            DeniedError: one of them says no, fails, or is required and missing.
        """
        self.plugins.require(self.profile.required_plugins)
        check_policy(self.profile.policy, action, subject)
        self.plugins.decide(action, subject)


def _made(descriptor: Descriptor, make: Callable[[], T]) -> T:
    """What a plugin's factory makes; whatever goes wrong in it is said of the plugin."""
    try:
        return make()
    except MedperfError:
        raise
    except Exception as error:
        logger.warning("the factory of %s %s failed", descriptor.seam, descriptor.name, exc_info=True)
        raise PluginError(
            f"The {descriptor.seam} {descriptor.name!r} could not be made ({type(error).__name__}: {error}).",
            hint="See: medperf plugin ls",
        ) from error

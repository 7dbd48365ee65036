"""Discovery and selection of plugins.

Every entry point of the group ``medperf`` is loaded by itself: a broken one is remembered with its reason and never
breaks the command line. Blocking happens before import. Selection, conflicts and the error messages are in here, so
that a plugin does only its own thing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import attrs
import pluggy

from medperf_core.errors import DeniedError, PluginError
from medperf_core.plugin.descriptors import (
    Descriptor,
    ExecutorPlugin,
    PackagerPlugin,
    RunnerPlugin,
    ServerPlugin,
    StoragePlugin,
)
from medperf_core.plugin.hookspecs import PROJECT, MedperfSpecs
from medperf_core.plugin.known import install_hint

D = TypeVar("D", bound=Descriptor)
GROUP = "medperf"
BLOCK_VARIABLE = "MEDPERF_BLOCK_PLUGINS"
HOOKS: dict[type[Descriptor], str] = {
    RunnerPlugin: "medperf_runners",
    PackagerPlugin: "medperf_packagers",
    StoragePlugin: "medperf_storages",
    ServerPlugin: "medperf_servers",
    ExecutorPlugin: "medperf_executors",
}
logger = logging.getLogger(__name__)


@attrs.frozen
class PluginRecord:
    """A plugin as ``medperf plugin ls`` shows it.

    Attributes:
        name: of its entry point.
        version, distribution: of the package that it came with.
        status: ``loaded``, ``blocked`` or ``failed``.
        reason: why it is not loaded, or what of it cannot be used; "" if all is well.
        provides: such as ``runner docker`` or ``hook medperf_policy``.
    """

    name: str
    version: str
    distribution: str
    status: str
    reason: str = ""
    provides: tuple[str, ...] = ()


@attrs.frozen
class _Provided:
    plugin: str
    distribution: str
    descriptor: Descriptor


class PluginManager:
    """The plugins of one site."""

    def __init__(self, entries: Iterable[EntryPoint], blocked: Iterable[str] = ()) -> None:
        """Load plugins.

        Args:
            entries: entry points; ``PluginManager.discover`` takes the installed ones.
            blocked: names of entry points or distributions that are not even imported.
        """
        self._pluggy = pluggy.PluginManager(PROJECT)
        self._pluggy.add_hookspecs(MedperfSpecs)
        self._records: dict[str, PluginRecord] = {}
        self._provided: list[_Provided] | None = None
        self._unusable: dict[str, list[str]] = {}
        barred = {_normal(name) for name in blocked}
        for entry in sorted(entries, key=lambda item: (item.dist.name if item.dist else "", item.name)):
            self._load(entry, barred)

    @classmethod
    def discover(cls, blocked: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> PluginManager:
        """The installed plugins, less those blocked by argument or by the variable MEDPERF_BLOCK_PLUGINS."""
        more = (environment or {}).get(BLOCK_VARIABLE, "").split(",")
        return cls(entry_points(group=GROUP), [*blocked, *filter(None, map(str.strip, more))])

    def _load(self, entry: EntryPoint, barred: set[str]) -> None:
        distribution = entry.dist.name if entry.dist else ""
        version = entry.dist.version if entry.dist else ""
        known = f"{distribution}/{entry.name}" if entry.name in self._records else entry.name
        record = PluginRecord(known, version, distribution, "loaded")
        if {_normal(entry.name), _normal(distribution)} & barred:
            self._records[known] = attrs.evolve(record, status="blocked", reason="blocked by the site")
            return
        try:
            self._pluggy.register(entry.load(), name=known)
            self._check_hook_names(known)
        except (Exception, SystemExit) as error:  # whatever a stranger's module does at import
            logger.warning("plugin %s of %s could not be loaded", entry.name, distribution, exc_info=True)
            if self._pluggy.has_plugin(known):
                self._pluggy.unregister(name=known)
            record = attrs.evolve(record, status="failed", reason=f"{type(error).__name__}: {error}")
        self._records[known] = record

    def _check_hook_names(self, name: str) -> None:
        known = set(vars(MedperfSpecs))
        unknown = [
            caller.name
            for caller in self._pluggy.get_hookcallers(self._pluggy.get_plugin(name)) or ()
            if caller.name not in known
        ]
        if unknown:
            raise PluginError(f"it implements {unknown[0]}, which this version of medperf-core does not have")

    def add(self, plugin: object, name: str) -> None:
        """Register a plugin object without an entry point, as embedding programs and tests do.

        Raises:
            PluginError: the name is taken, or it does not fit the hook specs.
        """
        if name in self._records:
            raise PluginError(f"A plugin called {name!r} is loaded already.")
        try:
            self._pluggy.register(plugin, name=name)
            self._check_hook_names(name)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"The plugin {name!r} does not fit: {error}.") from error
        self._records[name] = PluginRecord(name, "", "", "loaded")
        self._provided = None

    def _calls(self, hook: str) -> Iterator[tuple[str, Any]]:
        """Every implementation of a hook by itself: (plugin's name, function that takes all arguments by keyword)."""
        caller = getattr(self._pluggy.hook, hook)
        for implementation in caller.get_hookimpls():

            def call(implementation: Any = implementation, **arguments: Any) -> Any:
                wanted = {name: arguments[name] for name in implementation.argnames}
                return implementation.function(**wanted)

            yield implementation.plugin_name, call

    def _collected(self) -> list[_Provided]:
        if self._provided is None:
            self._provided = []
            self._unusable = {}
            for kind, hook in HOOKS.items():
                for plugin, call in self._calls(hook):
                    self._collect(kind, plugin, call)
        return self._provided

    def _collect(self, kind: type[Descriptor], plugin: str, call: Any) -> None:
        distribution = self._records[plugin].distribution
        try:
            for descriptor in call():
                if not isinstance(descriptor, kind):
                    raise TypeError(f"{HOOKS[kind]} gave a {type(descriptor).__name__}, not a {kind.__name__}")
                if descriptor.api != kind.API:
                    raise PluginError(
                        f"{kind.seam} {descriptor.name} is written for API {descriptor.api} of the "
                        f"{kind.seam} seam; this medperf-core has API {kind.API}"
                    )
                if self._provided is not None:
                    self._provided.append(_Provided(plugin, distribution, descriptor))
        except (Exception, SystemExit) as error:
            logger.warning("plugin %s failed in %s", plugin, HOOKS[kind], exc_info=True)
            self._unusable.setdefault(plugin, []).append(f"{type(error).__name__}: {error}")

    def records(self) -> list[PluginRecord]:
        """All plugins that were found, for display, in the order of their distributions."""
        provided = self._collected()
        result = []
        for record in self._records.values():
            backends = [
                f"{item.descriptor.seam} {item.descriptor.name}" for item in provided if item.plugin == record.name
            ]
            hooks = [
                f"hook {name}"
                for name in vars(MedperfSpecs)
                if name.startswith("medperf_")
                and name not in HOOKS.values()
                and any(plugin == record.name for plugin, _ in self._calls(name))
            ]
            failures = self._unusable.get(record.name, [])
            result.append(
                attrs.evolve(
                    record,
                    status="failed" if failures else record.status,
                    reason="; ".join(failures) or record.reason,
                    provides=(*backends, *hooks),
                )
            )
        return result

    def all(self, kind: type[D]) -> list[D]:
        """All descriptors of a seam, by name."""
        found = [item.descriptor for item in self._collected() if isinstance(item.descriptor, kind)]
        return sorted(found, key=lambda descriptor: descriptor.name)

    def descriptors(self) -> list[Descriptor]:
        """All descriptors of all seams."""
        return [item.descriptor for item in self._collected()]

    def get(self, kind: type[D], name: str) -> D:
        """The backend of a seam that a name or alias selects.

        Raises:
            PluginError: nobody provides it, or more than one does; says who is installed and what to install.
        """
        return self._one(kind, name, lambda descriptor: name == descriptor.name or name in descriptor.aliases)

    def for_scheme(self, kind: type[D], scheme: str) -> D:
        """The storage or server backend that serves a scheme.

        Raises:
            PluginError: as for ``get``.
        """
        return self._one(kind, scheme, lambda descriptor: scheme in getattr(descriptor, "schemes", ()))

    def _one(self, kind: type[D], name: str, matches: Any) -> D:
        found = [item for item in self._collected() if isinstance(item.descriptor, kind) and matches(item.descriptor)]
        if len(found) == 1 and isinstance(found[0].descriptor, kind):
            return found[0].descriptor
        if found:
            owners = " and ".join(f"{item.plugin} ({item.distribution or 'no distribution'})" for item in found)
            raise PluginError(
                f"More than one plugin provides the {kind.seam} {name!r}: {owners}.",
                hint="Block one of them: medperf profile set blocked_plugins=NAME",
            )
        failed = [
            record
            for record in self.records()
            if record.status != "loaded"
            and (
                f"{kind.seam} {name} " in record.reason
                or _normal(name) in (_normal(record.name), _normal(record.distribution.removeprefix("medperf-")))
            )
        ]
        if failed:
            raise PluginError(
                f"The {kind.seam} {name!r} cannot be used: its plugin is {failed[0].status} ({failed[0].reason}).",
                hint="See: medperf plugin ls",
            )
        names = sorted({word for item in self.all(kind) for word in (getattr(item, "schemes", None) or (item.name,))})
        hint = install_hint(kind.seam, name) or "See: medperf plugin ls"
        raise PluginError(
            f"No installed plugin provides the {kind.seam} {name!r}. Installed: {', '.join(names) or 'none'}.",
            hint=hint,
        )

    def require(self, names: Iterable[str]) -> None:
        """Refuse to go on unless these plugins (entry points or distributions) are loaded and whole.

        Raises:
            DeniedError: one is not; an action that a policy guards must not go on without its policy.
        """
        names = list(names)
        if not names:
            return
        loaded = {
            word
            for record in self.records()
            if record.status == "loaded"
            for word in (_normal(record.name), _normal(record.distribution))
        }
        for name in names:
            if _normal(name) not in loaded:
                raise DeniedError(
                    f"This profile requires the plugin {name!r}, which is not loaded.",
                    hint="See why with: medperf plugin ls",
                )

    def decide(self, action: Any, subject: Any) -> None:
        """Ask every policy.

        Raises:
            DeniedError: a policy denied, failed or gave no decision; names the plugin and the reason.
        """
        from medperf_core.plugin.policy import Decision

        for plugin, call in self._calls("medperf_policy"):
            try:
                decision = call(action=action, subject=subject)
            except Exception as error:
                logger.warning("policy of plugin %s failed", plugin, exc_info=True)
                raise DeniedError(
                    f"The policy of plugin {plugin} failed on {subject.what} "
                    f"({type(error).__name__}: {error}), and an error denies."
                ) from error
            if not isinstance(decision, Decision) or decision.allow is not True:
                reason = getattr(decision, "reason", "") or "it gave no reason"
                raise DeniedError(f"The policy of plugin {plugin} denies {subject.what}: {reason}.")

    def notify(self, event: Any) -> None:
        """Tell every observer; a failure is logged and goes no further."""
        for plugin, call in self._calls("medperf_event"):
            try:
                call(event=event)
            except Exception:
                logger.warning("observer of plugin %s failed", plugin, exc_info=True)

    def checks(self) -> Iterator[Any]:
        """The checks of all ``medperf_doctor`` hooks; a hook that fails becomes a failed check."""
        from medperf_core.plugin.doctor import Check, Health

        for plugin, call in self._calls("medperf_doctor"):
            try:
                yield from list(call())
            except Exception as error:
                yield Check(f"checks of plugin {plugin}", Health.FAILED, f"{type(error).__name__}: {error}")

    def add_commands(self, group: Any) -> None:
        """Let plugins add commands to a click group; a plugin that fails, or takes a name that is there, adds none."""
        for plugin, call in self._calls("medperf_commands"):
            before = dict(group.commands)
            try:
                call(group=group)
                taken = [name for name in before if group.commands.get(name) is not before[name]]
                if taken:
                    raise PluginError(f"it would replace the command {taken[0]!r}")
            except Exception as error:
                logger.warning("commands of plugin %s could not be added", plugin, exc_info=True)
                group.commands.clear()
                group.commands.update(before)
                self._unusable.setdefault(plugin, []).append(f"commands: {error}")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

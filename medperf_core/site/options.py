"""What one command may override, and what is in force once options, variables and the profile are laid together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from medperf_core.entities.roles import TASKS
from medperf_core.errors import ConfigurationError, MedperfError, UsageError
from medperf_core.plugin.isolation import Waiver
from medperf_core.plugin.runner import Gpus, Resources
from medperf_core.plugin.settings import SettingField, convert

if TYPE_CHECKING:
    from medperf_core.site.profiles import Profile

T = TypeVar("T")

DEFAULT_PROCESSES = 4096
"""Processes and threads of a task where nobody says another number: far more than work needs, too few for a bomb."""

NO_LIMIT = float("inf")

ALL_TASKS = "*"
"""Stands for every task in time limits."""

FIELD_TASKS = tuple(task for tasks in TASKS.values() for task in tasks)

_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Bytes of ``8g``, ``512 MiB``, ``1.5 GB`` or ``1048576``. All units are powers of 1024, as engines take them.

    Raises:
        UsageError: it is not a size, or less than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * 1024 ** _POWERS[(match[2] or "").lower()]) if match else 0
    if size < 1:
        raise UsageError(
            f"{text!r} is not a size.", hint="Write a number of bytes, or one with a unit: 512m, 8g, 1.5 GiB."
        )
    return size


def check_task_names(limits: Iterable[str], tasks: Iterable[str] = ()) -> None:
    """Refuse time limits of tasks that would never run, such as a misspelt one.

    Args:
        limits: the tasks that limits were given for.
        tasks: those that a container may have beside the field's.

    Raises:
        UsageError: one is unknown; the known ones are listed.
    """
    known = dict.fromkeys((*FIELD_TASKS, *tasks))
    for task in limits:
        if task != ALL_TASKS and task not in known:
            raise UsageError(
                f"A time limit was given for the task {task!r}, which is not known here.",
                hint=f"Known tasks: {', '.join(known)}.",
            )


@attrs.frozen(kw_only=True)
class SiteOptions:
    """What a command line or an embedding program says over the profile. None and empty mean not given.

    Attributes:
        platform, executor: names of the runner and of the executor.
        allow: waivers, as ``--allow`` takes them; they add to the profile's.
        offline: open no connection.
        gpus, shm_size, memory, cpus, processes: as in a profile.
        time_limits: seconds, by task; ``*`` stands for every task that is not named.
        settings: of backends, by backend and field.
    """

    platform: str | None = None
    executor: str | None = None
    allow: tuple[str, ...] = ()
    offline: bool = False
    gpus: str | None = None
    shm_size: str | None = None
    memory: str | None = None
    cpus: float | None = None
    processes: int | None = None
    time_limits: Mapping[str, float] = attrs.field(factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Effective:
    """What is in force for one command.

    Attributes:
        platform, executor: names of the runner and of the executor.
        waivers: all that was allowed, by profile, variable or option.
        offline: open no connection.
        resources: what a task may use, GPUs included.
        time_limits: seconds, by task; a task that is not there has no limit.
    """

    platform: str
    executor: str
    waivers: tuple[Waiver, ...]
    offline: bool
    resources: Resources
    time_limits: Mapping[str, float]

    @property
    def gpus(self) -> Gpus:
        return self.resources.gpus


def merge(profile: Profile, options: SiteOptions, environment: Mapping[str, str]) -> Effective:
    """Lay an option over its variable over the profile's key over the default.

    The variables are MEDPERF_PLATFORM, MEDPERF_EXECUTOR, MEDPERF_ALLOW (commas between names), MEDPERF_OFFLINE
    (yes or no), MEDPERF_GPUS, MEDPERF_SHM_SIZE, MEDPERF_MEMORY, MEDPERF_CPUS, MEDPERF_PROCESSES and
    MEDPERF_TIME_LIMITS (``infer=3600,prepare=600``; ``*`` for every task). A blank variable counts as not set.

    Raises:
        UsageError: an option is not fit.
        ConfigurationError: a variable is not fit; names it.
    """
    variables = _Variables(environment)

    def first(name: str, kind: type[T], given: T | None, in_profile: T) -> T:
        if given is not None:
            return given
        value = variables.read(name, kind)
        return in_profile if value is None else value

    allowed = (*profile.allow, *variables.words("ALLOW"), *options.allow)
    memory, shm_size = (
        _checked(parse_size, first(name, str, given, kept), name, given is None)
        for name, given, kept in (
            ("MEMORY", options.memory, profile.memory or ""),
            ("SHM_SIZE", options.shm_size, profile.shm_size or ""),
        )
    )
    cpus = first("CPUS", float, options.cpus, profile.cpus or NO_LIMIT)
    processes = first("PROCESSES", int, options.processes, profile.processes or DEFAULT_PROCESSES)
    for name, number in (("CPUs", cpus), ("processes", processes)):
        if not number > 0:
            raise UsageError(f"The number of {name} is {number}; it must be more than 0.")
    gpus = first("GPUS", str, options.gpus, profile.gpus or "")
    return Effective(
        platform=first("PLATFORM", str, options.platform, profile.platform),
        executor=first("EXECUTOR", str, options.executor, profile.executor),
        waivers=tuple(
            dict.fromkeys(_checked(Waiver.parse, word, "ALLOW", word not in options.allow) for word in allowed)
        ),
        offline=options.offline or bool(variables.read("OFFLINE", bool)),
        resources=Resources(
            memory=memory,
            cpus=None if cpus == NO_LIMIT else cpus,
            processes=processes,
            shm_size=shm_size,
            gpus=_checked(Gpus.parse, gpus, "GPUS", options.gpus is None) or Gpus(),
        ),
        time_limits=_time_limits((profile.time_limits, variables.time_limits(), options.time_limits)),
    )


def _checked(read: Any, text: str, name: str, from_variable: bool) -> Any:
    """``text`` as read, None if it is blank; what is wrong in a variable is said to be in that variable."""
    if not text:
        return None
    try:
        return read(text)
    except MedperfError as error:
        if not from_variable:
            raise
        # Profiles were checked when they were read.
        raise ConfigurationError(f"The variable MEDPERF_{name} is not fit: {error.message}", hint=error.hint) from None


def _time_limits(layers: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Later layers win, ``*`` of a later layer over names of an earlier one; ``*`` becomes every task of the field."""
    limits: dict[str, float] = {}
    for layer in layers:
        for task, seconds in layer.items():
            if not 0 < seconds < float("inf"):
                raise UsageError(f"The time limit of {task} is {seconds}; it must be more than 0 seconds.")
        if ALL_TASKS in layer:
            limits = dict.fromkeys((*FIELD_TASKS, *limits), layer[ALL_TASKS])
        limits.update({task: seconds for task, seconds in layer.items() if task != ALL_TASKS})
    return limits


@attrs.frozen
class _Variables:
    environment: Mapping[str, str]

    def text(self, name: str) -> str:
        return self.environment.get(f"MEDPERF_{name}", "").strip()

    def read(self, name: str, kind: type[T]) -> T | None:
        if not self.text(name):
            return None
        value: T = convert(SettingField("", name, kind, False, None, "", False), self.text(name), f"MEDPERF_{name}")
        return value

    def words(self, name: str) -> tuple[str, ...]:
        return tuple(word.strip() for word in self.text(name).split(",") if word.strip())

    def time_limits(self) -> dict[str, float]:
        limits = {}
        for word in self.words("TIME_LIMITS"):
            task, equals, seconds = word.partition("=")
            try:
                limits[task.strip()] = float(seconds)
            except ValueError:
                equals = ""
            if not equals or not 0 < limits.get(task.strip(), 0) < float("inf"):
                raise ConfigurationError(
                    f"The variable MEDPERF_TIME_LIMITS has the entry {word!r}.",
                    hint="Write it as infer=3600,prepare=600, in seconds.",
                )
        return limits

"""Sizes, and which of option, variable, profile and default is in force."""

from __future__ import annotations

from typing import Any

import pytest

from medperf_core.entities import ImageIdentity
from medperf_core.errors import ConfigurationError, UsageError
from medperf_core.plugin.isolation import Waiver
from medperf_core.plugin.runner import Gpus
from medperf_core.site.options import DEFAULT_PROCESSES, SiteOptions, check_task_names, merge, parse_size
from medperf_core.site.profiles import Profile


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8g", 8 << 30),
        ("512 MiB", 512 << 20),
        ("1.5 GB", 3 << 29),
        ("1048576", 1 << 20),
        ("10b", 10),
        ("2K", 2048),
        (" 1t ", 1 << 40),
        ("3 kb", 3072),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "g", "0", "0g", "-1", "8 gigs", "8gg", "1e3", "inf", "nan", "٣g", "1" * 400, "0.1"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text)


def test_defaults() -> None:
    effective = merge(Profile(), SiteOptions(), {})
    assert (effective.platform, effective.executor, effective.offline) == ("docker", "local", False)
    assert effective.waivers == ()
    assert effective.time_limits == {}
    resources = effective.resources
    assert (resources.memory, resources.cpus, resources.shm_size) == (None, None, None)
    assert resources.processes == DEFAULT_PROCESSES
    assert not effective.gpus


@pytest.mark.parametrize(
    ("variable", "key", "texts", "read"),
    [
        ("MEDPERF_PLATFORM", "platform", ("one", "two", "three"), lambda e: e.platform),
        ("MEDPERF_EXECUTOR", "executor", ("one", "two", "three"), lambda e: e.executor),
        ("MEDPERF_GPUS", "gpus", ("1", "2", "all"), lambda e: str(e.gpus)),
        ("MEDPERF_MEMORY", "memory", ("1", "2", "3"), lambda e: str(e.resources.memory)),
        ("MEDPERF_SHM_SIZE", "shm_size", ("1", "2", "3"), lambda e: str(e.resources.shm_size)),
        ("MEDPERF_CPUS", "cpus", (1.0, 2.0, 3.0), lambda e: e.resources.cpus),
        ("MEDPERF_PROCESSES", "processes", (1, 2, 3), lambda e: e.resources.processes),
    ],
)
def test_option_over_variable_over_profile(variable: str, key: str, texts: tuple[Any, ...], read: Any) -> None:
    profile, options = Profile(**{key: texts[0]}), SiteOptions(**{key: texts[2]})
    environment = {variable: str(texts[1])}
    assert read(merge(profile, SiteOptions(), {})) == texts[0]
    assert read(merge(profile, SiteOptions(), {variable: " "})) == texts[0]
    assert read(merge(profile, SiteOptions(), environment)) == texts[1]
    assert read(merge(profile, options, environment)) == texts[2]


def test_an_option_can_take_gpus_away() -> None:
    assert merge(Profile(gpus="all"), SiteOptions(gpus="none"), {}).gpus == Gpus()


def test_waivers_add_up() -> None:
    image = "config:sha256:" + "a" * 64
    effective = merge(
        Profile(allow=("plain-http",)),
        SiteOptions(allow=(f"no-isolation={image}", "plain-http")),
        {"MEDPERF_ALLOW": "no-cpu-limit, no-time-limit"},
    )
    assert effective.waivers == (
        Waiver("plain-http"),
        Waiver("no-cpu-limit"),
        Waiver("no-time-limit"),
        Waiver("no-isolation", ImageIdentity.parse(image)),
    )


def test_offline() -> None:
    assert merge(Profile(), SiteOptions(offline=True), {}).offline
    assert merge(Profile(), SiteOptions(), {"MEDPERF_OFFLINE": "yes"}).offline
    assert not merge(Profile(), SiteOptions(), {"MEDPERF_OFFLINE": "0"}).offline


def test_time_limits_by_task() -> None:
    profile = Profile(time_limits={"infer": 1, "prepare": 2, "own": 3})
    assert merge(profile, SiteOptions(), {}).time_limits == {"infer": 1, "prepare": 2, "own": 3}
    variable = {"MEDPERF_TIME_LIMITS": "*=10, infer=20"}
    every = {"prepare": 10, "sanity_check": 10, "statistics": 10, "infer": 20, "evaluate": 10, "own": 10}
    assert merge(profile, SiteOptions(), variable).time_limits == every
    assert merge(profile, SiteOptions(time_limits={"infer": 30}), variable).time_limits == {**every, "infer": 30}
    assert set(merge(profile, SiteOptions(time_limits={"*": 5}), variable).time_limits.values()) == {5}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CPUS", "many"),
        ("PROCESSES", "1.5"),
        ("MEMORY", "lots"),
        ("SHM_SIZE", "x"),
        ("GPUS", "some"),
        ("OFFLINE", "perhaps"),
        ("ALLOW", "everything"),
        ("TIME_LIMITS", "infer"),
        ("TIME_LIMITS", "infer=x"),
        ("TIME_LIMITS", "infer=-1"),
        ("TIME_LIMITS", "infer=nan"),
    ],
)
def test_a_variable_that_is_not_fit_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"MEDPERF_{name}"):
        merge(Profile(), SiteOptions(), {f"MEDPERF_{name}": text})


@pytest.mark.parametrize(
    "options",
    [
        {"cpus": 0.0},
        {"cpus": float("nan")},
        {"processes": -1},
        {"memory": "lots"},
        {"shm_size": "0"},
        {"gpus": "x"},
        {"allow": ("x",)},
        {"time_limits": {"infer": 0.0}},
        {"time_limits": {"*": float("inf")}},
    ],
)
def test_an_option_that_is_not_fit_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        merge(Profile(), SiteOptions(**options), {})


def test_limits_of_tasks_that_never_run_are_refused() -> None:
    check_task_names(["*", "infer", "sanity_check"])
    check_task_names(["train"], ["train"])
    with pytest.raises(UsageError, match=r"'inferr'.*prepare, .*infer, .*train"):
        check_task_names(["infer", "inferr"], ["train"])

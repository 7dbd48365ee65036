"""The list of arguments: for other engines and for devices that are not here, and for names that mean harm."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from medperf_singularity import execute, parts, probe
from medperf_singularity.arguments import Plan, describe, engine_words, gpu_variables, mount
from medperf_singularity.config import ImageConfig
from medperf_singularity.engine import Engine
from medperf_singularity.plugin import SingularitySettings
from medperf_singularity.probe_data import Ability

from medperf_core.entities import CommandStyle, ImageSource, SourceKind, TaskSpec, VolumeKind, VolumeSpec
from medperf_core.errors import ExecutionError, IsolationError
from medperf_core.plugin import Gpus, Guarantee, Limit, Mount, PreparedImage, Resources, TaskRequest
from medperf_core.plugin.layout import Bind

APPTAINER = Engine("/usr/bin/apptainer", "apptainer", (1, 4, 5), "1.4.5")
CE = Engine("/usr/bin/singularity", "singularity", (4, 1, 0), "4.1.0")
OLD_CE = Engine("/usr/bin/singularity", "singularity", (3, 8, 0), "3.8.0")
ALL = Ability(frozenset(Guarantee), True, True, frozenset({Limit.MEMORY, Limit.CPU, Limit.PROCESSES}), True)
FOLDER = Path("/run-folder")


def plan(**changes: Any) -> Plan:
    given: dict[str, Any] = {
        "image": "/image.sif",
        "words": ("/bin/true", "--nv", "-x"),
        "variables": {},
        "binds": (),
        "working_dir": "/data",
        "uid": 7,
        "gid": 8,
        "root": True,
        "network": True,
        "seccomp": True,
    }
    return Plan(**{**given, **changes})


def options(words: tuple[str, ...], engine: Engine = APPTAINER) -> list[str]:
    """The engine's options: what stands between ``exec`` and the image."""
    assert words[words.index(engine.program) :][:2] == (engine.program, "--silent")
    return list(words[words.index("exec", words.index(engine.program)) + 1 : words.index("/image.sif")])


def pairs(found: list[str], name: str) -> list[str]:
    return [found[at + 1] for at, word in enumerate(found) if word == name]


@pytest.mark.parametrize("engine", [APPTAINER, CE])
@pytest.mark.parametrize("root", [True, False])
def test_every_guarantee_is_asked_for(engine: Engine, root: bool) -> None:
    words = engine_words(engine, plan(root=root), FOLDER)
    found = options(words, engine)
    alone = {"--containall", "--pid", "--ipc", "--uts", "--cleanenv", "--no-home", "--no-privs", "--net"}
    assert alone <= set(found)
    assert pairs(found, "--network") == ["none"]
    assert pairs(found, "--drop-caps") == ["ALL"]
    assert set(pairs(found, "--no-mount")[0].split(",")) == {"home", "tmp", "sys", "cwd", "hostfs", "bind-paths"}
    security = ["seccomp:/run-folder/seccomp.json", *(["uid:7", "gid:8"] if root else [])]
    assert pairs(found, "--security") == security
    assert pairs(found, "--pwd") == ["/data"]
    assert words[-4:] == ("/image.sif", "/bin/true", "--nv", "-x")
    assert not {"--writable", "--writable-tmpfs", "--bind", "-B", "--env", "--keep-privs", "--nv"} & set(found)


def test_what_an_older_singularity_does_not_know_is_left_out() -> None:
    assert "bind-paths" not in pairs(options(engine_words(OLD_CE, plan(), FOLDER), OLD_CE), "--no-mount")[0]


def test_only_what_cannot_be_had_is_left_out() -> None:
    closed = options(engine_words(APPTAINER, plan(), FOLDER))
    opened = options(engine_words(APPTAINER, plan(network=False, seccomp=False), FOLDER))
    without = {"--net", "--network", "none", "--security", "seccomp:/run-folder/seccomp.json"}
    assert [word for word in closed if word not in without] == [word for word in opened if word not in without]
    assert not {"--net", "--network", "seccomp:/run-folder/seccomp.json"} & set(opened)


@pytest.mark.parametrize(
    ("missing", "waivers", "runs"),
    [
        (Guarantee.NETWORK, (), False),
        (Guarantee.NETWORK, ("more-privileges",), False),
        (Guarantee.NETWORK, ("no-network-isolation",), True),
        (Guarantee.PRIVILEGES, ("no-network-isolation",), False),
        (Guarantee.PRIVILEGES, ("more-privileges",), True),
        (Guarantee.MOUNTS, ("no-isolation",), True),
        (Guarantee.READ_ONLY_INPUTS, ("writable-inputs",), True),
    ],
)
def test_a_task_runs_open_only_if_that_was_waived(missing: Guarantee, waivers: tuple[str, ...], runs: bool) -> None:
    found = attrs.evolve(ALL, guarantees=ALL.guarantees - {missing})
    if runs:
        execute.refuse(APPTAINER, found, waivers)
        return
    with pytest.raises(IsolationError, match="nothing was started"):
        execute.refuse(APPTAINER, found, waivers)


def test_limits_and_sizes() -> None:
    limited = plan(memory=1 << 30, cpus=1.5, processes=50, tmp_size=5 << 20, shm_size=6 << 20)
    words = engine_words(APPTAINER, limited, FOLDER)
    found = options(words)
    assert pairs(found, "--memory") == pairs(found, "--memory-swap") == [str(1 << 30)]
    assert pairs(found, "--cpus") == ["1.5"]
    assert int(pairs(found, "--pids-limit")[0]) >= 50 + 32
    own = "rw,nosuid,nodev,mode=1777,uid=7,gid=8"
    before = words[: words.index(APPTAINER.program)]
    assert before[-4:] == (f"{own},size={5 << 20}", "/run-folder/tmp", f"{own},size={6 << 20}", "/run-folder/shm")
    user = attrs.evolve(limited, root=False, sized=True, memory=None, cpus=None, processes=None, own_limit=99)
    words = engine_words(APPTAINER, user, FOLDER)
    assert words[words.index("--silent") + 1 :][:2] == ("--config", "/run-folder/engine.conf")
    assert pairs(options(words), "--scratch") == ["/tmp", "/dev/shm"]
    assert not {"--memory", "--cpus", "--pids-limit", "unshare"} & set(words)
    assert words[words.index(APPTAINER.program) - 1] == "99"


@pytest.mark.parametrize(
    ("gpus", "variables"),
    [
        ("none", {}),
        ("2", {"CUDA_VISIBLE_DEVICES": "0,1", "NVIDIA_VISIBLE_DEVICES": "0,1"}),
        ("device=3,GPU-a1", {"CUDA_VISIBLE_DEVICES": "3,GPU-a1", "NVIDIA_VISIBLE_DEVICES": "3,GPU-a1"}),
        ("all", {"NVIDIA_VISIBLE_DEVICES": "all"}),
    ],
)
def test_gpus(gpus: str, variables: Mapping[str, str]) -> None:
    which = Gpus.parse(gpus)
    found = gpu_variables(which, {"LD_LIBRARY_PATH": "/opt/lib"})
    libraries = found.pop("LD_LIBRARY_PATH", None)
    assert found == variables
    assert libraries == ("/opt/lib:/.singularity.d/libs" if which else None)
    assert ("--nv" in options(engine_words(APPTAINER, plan(gpus=which), FOLDER))) == bool(which)


def test_gpus_are_found_by_their_devices(tmp_path: Path) -> None:
    assert not probe.has_gpus(tmp_path)
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    assert probe.has_gpus(tmp_path)


HOSTILE = (
    "a,b",
    "a:b:rw",
    "a b",
    'a"b',
    '"quoted"',
    "it's",
    "a,destination=etc",
    "a,ro=false",
    "$(id)",
    "`id`",
    "ä€日",
    "a\\b",
    "%s",
    " lead",
    "trail ",
    "tab\there",
    "-o",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_can_add_a_field_to_a_mount(name: str) -> None:
    text = mount(Path("/host", name), f"/in/{name}", False)
    fields = next(csv.reader([text], strict=True))
    assert fields == ["type=bind", f"source=/host/{name}", f"destination=/in/{name}", "ro"]


def test_hostile_names_are_mounted_as_they_are(tasks: Any) -> None:
    """One task with all of them, each as a folder whose file says its name; two have a line's end too."""

    def work() -> None:
        names = [*HOSTILE, "new\nline", "return\rhere"]
        mounts, places = [], {}
        for number, name in enumerate(names):
            path = tasks.path(f"names/{name}")
            (path / "said").write_text(f"{number}")
            mounts.append(tasks.mount(f"v{number}", path, writable=number % 2 == 1))
            places[f"v{number}"] = f"/in/{name}" if name in HOSTILE else f"/in/{number}"
        script = (
            'for f in "$0"/* "$0"/.[!.]*; do test -d "$f" && { touch "$f/new" 2>/dev/null; cat "$f/said"; echo; }; done'
        )
        task = TaskSpec(
            "infer",
            tuple(
                VolumeSpec(each.label, each.writable, each.kind, each.label, mount_path=places[each.label])
                for each in mounts
            ),
            CommandStyle.FIXED,
            entrypoint=("/bin/sh", "-c", script, "/in"),
        )
        outcome = tasks.run_request(tasks.request("", *mounts, task=task))
        assert sorted(map(int, outcome.tail)) == list(range(len(names))), outcome.tail
        written = {each.label for each in mounts if (each.path / "new").exists()}
        assert written == {each.label for each in mounts if each.writable}

    tasks.do(work)


@pytest.mark.parametrize("target", ["/a\nb", "/proc", "/proc/self", "/sys/x", "/.singularity.d/env", "/.singularity.d"])
def test_places_that_are_refused(tmp_path: Path, target: str) -> None:
    volume = VolumeSpec("v", False, VolumeKind.DIRECTORY, "v", mount_path="/v")
    task = TaskSpec("infer", (volume,), CommandStyle.FIXED, entrypoint=("x",))
    request = TaskRequest(task, (Mount("v", tmp_path, VolumeKind.DIRECTORY, False),), tmp_path / "log")
    object.__setattr__(volume, "mount_path", target)  # past the manifest's own checks
    prepared = PreparedImage("/image.sif", (), ImageSource(SourceKind.SIF, "/image.sif"))
    with pytest.raises(ExecutionError):
        describe(SingularitySettings(), ALL, prepared, ImageConfig(), request)


def test_what_is_not_said_comes_from_the_image(tmp_path: Path) -> None:
    config = ImageConfig(("/enter",), ("cmd",), {"A": "image", "B": "image"}, "/work", "root")
    task = TaskSpec("infer", (), CommandStyle.FIXED, environment={"B": "manifest"})
    prepared = PreparedImage("/image.sif", (), ImageSource(SourceKind.SIF, "/image.sif"))
    request = TaskRequest(task, (), tmp_path / "log", Resources(processes=9), {"C": "core"})
    found = describe(SingularitySettings(), ALL, prepared, config, request)
    assert found.words == ("/enter", "cmd")
    assert found.working_dir == "/work"
    own = (65534, 65534) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    assert (found.uid, found.gid) == own, "an image cannot choose who it runs as"
    assert {"A": "image", "B": "manifest", "C": "core", "HOME": "/tmp"}.items() <= found.variables.items()
    assert found.processes == 9 and found.memory
    given = attrs.evolve(request, task=attrs.evolve(task, entrypoint=("/mine",)))
    assert describe(SingularitySettings(), ALL, prepared, config, given).words == ("/mine",)


def test_an_engine_that_holds_no_limits_is_told_none(tmp_path: Path) -> None:
    unlimited = attrs.evolve(ALL, limits=frozenset())
    prepared = PreparedImage("/image.sif", (), ImageSource(SourceKind.SIF, "/image.sif"))
    task = TaskSpec("infer", (), CommandStyle.FIXED, entrypoint=("x",))
    request = TaskRequest(task, (), tmp_path / "log", Resources(memory=5, cpus=1, processes=9))
    found = describe(SingularitySettings(), unlimited, prepared, ImageConfig(), request)
    assert (found.memory, found.cpus, found.processes) == (None, None, None)
    assert found.own_limit >= 9 + 32
    assert set(execute.held(found, request)) == {"memory", "cpu", "processes"}
    assert all(words.startswith("polled") for words in execute.held(found, request).values())


def test_the_script_evaluates_nothing() -> None:
    text = parts.script(plan(variables={"A": "$(touch /x) `id` 'q' \"d\"\n;", "no.name": "1", "UID": "0", "PWD": "/"}))
    assert "export A='$(touch /x) `id` '\"'\"'q'\"'\"' \"d\"\n;'\n" in text
    assert "no.name" not in text and "UID" not in text and "PWD" not in text
    shown = parts.script(plan(variables={"API_TOKEN": "hidden", "A": "1"}), for_people=True)
    assert "hidden" not in shown and "A=1" in shown and parts.STARTED not in shown


def test_a_bind_of_the_system_is_read_only(tmp_path: Path) -> None:
    prepared = PreparedImage("/image.sif", (), ImageSource(SourceKind.SIF, "/image.sif"))
    task = TaskSpec("infer", (), CommandStyle.FIXED, entrypoint=("x",))
    found = describe(SingularitySettings(), ALL, prepared, ImageConfig(), TaskRequest(task, (), tmp_path / "log"))
    assert all(not bind.writable and bind.target.startswith("/sys/devices/system/") for bind in found.binds)
    words = engine_words(APPTAINER, attrs.evolve(found, binds=(Bind(Path("/a"), "/.singularity.d", False),)), FOLDER)
    mounts = pairs(list(words), "--mount")
    assert mounts[-1] == "type=bind,source=/run-folder/env,destination=/.singularity.d/env,ro", "it must win"

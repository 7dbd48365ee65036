"""YAML that others wrote: manifests, parameters and results, and the paths of a demo dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from medperf_core.builtin._container_config_packager import ContainerConfigPackager
from medperf_core.builtin._mlcube_packager import MlcubePackager
from medperf_core.entities.codec import from_data, to_data, to_json
from medperf_core.entities.image import SourceKind
from medperf_core.entities.roles import Role, VolumeKind, volume_rules
from medperf_core.entities.spec import ContainerSpec
from medperf_core.errors import InvalidEntityError, MedperfError
from medperf_core.journeys.demo_data import _inside
from medperf_core.journeys.tasks import read_map
from medperf_core.plugin import Gpus, Manifest, Packager
from medperf_core.plugin.layout import container_layout
from medperf_core.plugin.manifest import load_yaml, manifest_from_data, parse_manifest
from medperf_core.plugin.role_check import check_role
from medperf_core.plugin.runner import Mount
from medperf_core.site.options import parse_size
from medperf_docker.registry import Reference

from fuzz.target import Draw, Target

DATA = Path(__file__).parents[2] / "tests" / "data" / "manifests"
RECURSIVE = b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n<<: {k: v}\n"
ODD = (
    b"",
    b"{}",
    b"--- 1\n--- 2\n",
    b"a: &x [*x]",
    b"? [1]\n: 2",
    b"1: 2",
    b"a: !!python/object:os.system x",
    b"a: 2024-01-02",
    b"\xff\xfe",
    b'a: "\\ud800"',
    b"a: 0x" + b"f" * 63,
    b"a: 1:2:3",
    b"a: .inf",
    b"{" * 50,
    b"- " * 60,
    RECURSIVE,
)
PACKAGERS: tuple[Packager, ...] = (MlcubePackager(), ContainerConfigPackager())
WORDS = (
    "name", "description", "platform", "accelerator_count", "docker", "image", "build_context", "build_file",
    "build_strategy", "cpu_args", "gpu_args", "run_args", "env_args", "tar_file", "--network", "--gpus", "singularity",
    "tasks", "process", "project", "entrypoint", "parameters", "inputs", "outputs", "type", "default", "opts",
    "container_type", "input_volumes", "output_volumes", "mount_path", "command", "environment", "shm_size", "gpus",
    "DockerImage", "DockerArchive", "SingularityFile", "file", "directory", "ro", "rw", "data_path", "labels_path",
    "output_path", "output_labels_path", "report_file", "metadata_path", "parameters_file", "additional_files",
    "predictions", "labels", "prepare", "sanity_check", "statistics", "infer", "evaluate", "train", "pull", "auto",
    "always", "all", "device=0,1", "2g", "1bb", "0.1b", "${workspace}/", "$WORKSPACE/", "../", "../project", "/etc",
    "circle", "out/Dockerfile",
    "/mlcommons/volumes/data", "a/b:1@sha256:" + "0" * 64, "localhost:5000/x", "--shm-size=1g", "-e A=b", "--gpus=all",
    "{data_path}", "x-own", "<<", "&a", "*a", "!!str ", "'", '"', "\\", "\n  ", ": ", "- ", "{", "}", "[", "]", "|",
    ">",
)  # fmt: skip


def _seeds(*prefixes: str) -> Iterable[bytes]:
    for path in sorted(DATA.iterdir()):
        if path.name.startswith(prefixes):
            yield path.read_bytes()
    yield from ODD


def run_yaml(data: bytes, folder: Path) -> None:
    value = load_yaml(data, "input")
    text = to_json(value)
    assert json.loads(text) == value, "JSON cannot carry it"
    try:
        again = load_yaml(yaml.safe_dump(value, allow_unicode=True).encode(), "dumped")
    except InvalidEntityError as error:
        assert "larger than" in str(error) or "number of more" in str(error), (
            f"what was read is refused when it is written again: {error}"
        )
    else:
        assert again == value, "it comes back as something else"


def _place(folder: Path) -> Path:
    """A container's folder among others: what a manifest may see, and what it must not."""
    base = folder / "site" / "container" / "mlcube"
    if not base.exists():
        for name in ("site/secret", "site/container/project", "site/container/mlcube/workspace/.image"):
            (folder / name).mkdir(parents=True)
        (base / "workspace" / "additional_files").mkdir()
        for name in ("container/project/Dockerfile", "secret/Dockerfile", "container/mlcube/image.tar"):
            (folder / "site" / name).write_text("FROM scratch\n", encoding="utf-8")
        (base / "workspace" / ".image" / "image.sif").write_bytes(b"sif")
        (base / "out").symlink_to(folder / "site" / "secret")
        for name in ("circle", "workspace/circle", "workspace/.image/circle"):
            (base / name).symlink_to("circle")
    return base


def _check(packager: Packager, manifest: Manifest, folder: Path) -> None:
    before = json.dumps(manifest.data, sort_keys=True)
    spec = packager.read(manifest)
    assert json.dumps(manifest.data, sort_keys=True) == before, "reading changed the manifest"
    assert from_data(json.loads(to_json(spec)), ContainerSpec) == from_data(to_data(spec), ContainerSpec)
    for source in spec.sources:
        if source.kind is SourceKind.REGISTRY:
            Reference.parse(source.location)
        else:
            allowed = folder / "site" / "container"
            assert Path(source.location).resolve().is_relative_to(allowed.resolve()), f"{source} is elsewhere"
    for task in spec.tasks.values():
        rules = volume_rules(task.name)
        for volume in task.volumes:
            rule = rules.get(volume.offer)
            if rule is not None:
                assert volume.writable == rule.writable, f"{task.name} turned {volume.offer} around"
            path = volume.mount_path
            assert path is None or (path.startswith("/") and not set(path) & set(",:'\"\\") and "/.." not in path)
            assert ".." not in PurePosixPath(volume.subpath).parts and not volume.subpath.startswith("/")
        if task.shm_size is not None:
            parse_size(task.shm_size)
        if task.gpus is not None:
            assert str(Gpus.parse(task.gpus)) == str(Gpus.parse(str(Gpus.parse(task.gpus))))
        mounts = tuple(
            Mount(volume.label, folder / ("f.yaml" if volume.kind is VolumeKind.FILE else "d"), volume.kind, False)
            for volume in task.volumes
        )
        binds = container_layout(task, mounts).binds
        assert len({bind.target for bind in binds}) == len(binds), "two volumes at one place"
    for role in Role:
        check_role(spec, role)
    packager.read(Manifest(packager.template(manifest.data, "A new one"), None, "the template"))


def _check_message(error: MedperfError) -> None:
    assert all(char == "\n" or char.isprintable() for char in str(error)), f"unprintable words: {error!r}"


def _run_manifest(packager: Packager, data: bytes, folder: Path) -> None:
    base = _place(folder)
    manifest = parse_manifest(data, name="manifest.yaml", base=base)
    packager.recognizes(manifest.data)
    try:
        _check(packager, manifest, folder)
    except MedperfError as error:
        _check_message(error)
    _check_agreement(packager, manifest)


def _check_agreement(packager: Packager, manifest: Manifest) -> None:
    """What is accepted without a folder is accepted with one, but for what the folder holds."""
    try:
        packager.read(Manifest(manifest.data, None, "from a server"))
    except MedperfError as error:
        _check_message(error)


def run_mlcube(data: bytes, folder: Path) -> None:
    _run_manifest(PACKAGERS[0], data, folder)


def run_container_config(data: bytes, folder: Path) -> None:
    _run_manifest(PACKAGERS[1], data, folder)


def run_server_manifest(data: bytes, folder: Path) -> None:
    """A manifest as a server tells it, made of the words of both formats."""
    draw = Draw(data)
    packager = draw.pick(PACKAGERS)
    content: dict[str, Any] = {
        "tasks": {draw.text(WORDS): draw.value(WORDS) for _ in range(draw.number(4))} if draw.flag() else _tasks(draw),
        **{draw.text(WORDS[:24]): draw.value(WORDS, 4) for _ in range(draw.number(5))},
    }
    content |= {"container_type": draw.pick(WORDS), "image": draw.text(WORDS)} if draw.flag() else {}
    project = _place(folder).parent / "project" if draw.flag() else None
    _check(packager, manifest_from_data(content, "container 1", project=project), folder)


def _tasks(draw: Draw) -> dict[str, Any]:
    sides = (("inputs", "outputs"), ("input_volumes", "output_volumes"))[draw.number(2)]
    tasks: dict[str, Any] = {}
    for _ in range(1 + draw.number(3)):
        volumes: dict[str, Any] = {}
        for side in sides:
            volumes[side] = {
                draw.text(WORDS): {
                    draw.pick(("type", "mount_path", "default", "opts")): draw.text(WORDS)
                    for _ in range(draw.number(4))
                }
                for _ in range(draw.number(4))
            }
        own = {draw.pick(WORDS): draw.value(WORDS, 2) for _ in range(draw.number(3))}
        tasks[draw.pick(WORDS)] = {**own, **volumes} if sides[0] != "inputs" else {**own, "parameters": volumes}
    return tasks


def run_results(data: bytes, folder: Path) -> None:
    """The results or statistics file that a container wrote."""
    file = folder / "results.yaml"
    file.write_bytes(data)
    found = read_map(file, "results")
    assert found and json.loads(to_json(found)) == found


def run_demo_paths(data: bytes, folder: Path) -> None:
    """``paths.yaml`` of a demo dataset, in a folder that an archive may have filled with links."""
    root = folder / "site" / "demo"
    if not root.exists():
        (root / "data").mkdir(parents=True)
        (root / "labels").mkdir()
        (folder / "site" / "secret").mkdir()
        (root / "inner").symlink_to("data")
        (root / "outer").symlink_to("../secret")
        (root / "circle").symlink_to("circle")
    (root / "paths.yaml").write_bytes(data)
    paths = load_yaml(root / "paths.yaml")
    if isinstance(paths, dict):
        for key in paths:
            found = _inside(root, paths, key, "https://host/demo.tar.gz")
            assert found.is_relative_to(root.resolve()) and found.is_dir()
    if len(list(root.iterdir())) > 6:
        shutil.rmtree(root)


def _results_seeds() -> Iterable[bytes]:
    yield b"accuracy: 0.9\nper_case: {a: 1, b: [1, 2]}\n"
    yield from ODD


def _paths_seeds() -> Iterable[bytes]:
    yield b"data_path: data\nlabels_path: labels\n"
    for path in ("..", "../secret", "/etc", "outer", "inner", "circle", "data/../../secret", "\\0", "."):
        yield f'data_path: "{path}"\nlabels_path: labels'.encode()


TARGETS = (
    Target("yaml", run_yaml, lambda: _seeds("mlcube", "config"), WORDS),
    Target("mlcube", run_mlcube, lambda: _seeds("mlcube"), WORDS),
    Target("container-config", run_container_config, lambda: _seeds("config"), WORDS),
    Target("server-manifest", run_server_manifest, lambda: [bytes(range(256)), b"\1" * 64, b""], longest=1024),
    Target("results", run_results, _results_seeds, WORDS[-20:]),
    Target(
        "demo-paths",
        run_demo_paths,
        _paths_seeds,
        ("data_path", "labels_path", "../", "data", "inner", "outer", "circle"),
    ),
)

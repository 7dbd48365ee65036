"""container_config.yaml: all of it is checked when it is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medperf_core.builtin import container_config
from medperf_core.entities.image import ImageSource, SourceKind
from medperf_core.entities.roles import Role, VolumeKind
from medperf_core.entities.spec import CommandStyle, ContainerSpec, VolumeSpec
from medperf_core.errors import InvalidEntityError
from medperf_core.plugin.manifest import load_manifest, manifest_from_data, parse_manifest
from medperf_core.plugin.role_check import check_role
from medperf_core.plugin.settings import NoSettings

DATA = Path(__file__).parents[1] / "data" / "manifests"
FILE, DIRECTORY = VolumeKind.FILE, VolumeKind.DIRECTORY
(plugin,) = container_config.medperf_packagers()
packager = plugin.make(NoSettings())


def read(text: str, **manifest: Any) -> ContainerSpec:
    return packager.read(parse_manifest(text.encode(), name="it", **manifest))


def field(name: str) -> ContainerSpec:
    return packager.read(parse_manifest((DATA / f"{name}.yaml").read_bytes(), name=name))


def model(volumes: str = "", outputs: str = "", more: str = "", task: str = "infer", run_args: str = "") -> str:
    return (
        f"container_type: DockerImage\nimage: example/m:1\n{more}\ntasks:\n  {task}:\n"
        f"    run_args: {{{run_args}}}\n    input_volumes: {{{volumes}}}\n"
        f"    output_volumes: {{{outputs}}}\n"
    )


def at(path: str, kind: str = "directory") -> str:
    return f"data_path: {{mount_path: {path}, type: {kind}}}"


def refusal(text: str, **manifest: Any) -> str:
    with pytest.raises(InvalidEntityError) as caught:
        read(text, **manifest)
    assert caught.value.problems
    return str(caught.value)


def test_the_plugin_module_is_light() -> None:
    code = (
        "import sys; import medperf_core.builtin.container_config as m; list(m.medperf_packagers());"
        "print([n for n in sys.modules if n == 'yaml' or n.startswith('medperf_core.builtin._')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert (plugin.name, plugin.api, packager.file_names) == ("container-config", 1, ("container_config.yaml",))


class TestField:
    def test_model(self) -> None:
        spec = field("config_model")
        task = spec.tasks["infer"]
        assert spec.format == "container-config"
        assert spec.sources == (ImageSource(SourceKind.REGISTRY, "example/nodule-net:2.0"),)
        assert task.style is CommandStyle.FIXED
        assert task.volumes == (
            VolumeSpec("data_path", False, DIRECTORY, "data_path", "", "/mlcommons/volumes/data"),
            VolumeSpec(
                "parameters_file", False, FILE, "parameters_file", "", "/mlcommons/volumes/parameters/parameters.yaml"
            ),
            VolumeSpec(
                "additional_files", False, DIRECTORY, "additional_files", "", "/mlcommons/volumes/additional_files"
            ),
            VolumeSpec("output_path", True, DIRECTORY, "output_path", "", "/mlcommons/volumes/predictions"),
        )
        assert (task.entrypoint, task.command) == (("/opt/run", "--all"), ("infer", "--note", "two words"))
        assert (task.shm_size, task.gpus) == ("2g", "device=0,1")
        assert task.environment == {"THREADS": "4", "MODE": "fast"}
        assert check_role(spec, Role.MODEL) == []

    def test_data_preparator(self) -> None:
        spec = field("config_data_preparator")
        assert (spec.name, spec.description) == ("prep", "prepares")
        assert spec.tasks["prepare"].command == ("prepare", "--models=/mlcube_io3/models")
        assert spec.tasks["sanity_check"].process_command == ("sh", "check.sh", "{data_path}")
        assert check_role(spec, Role.DATA_PREPARATOR) == []
        assert spec.tasks["train"].volumes[0].label == "node_cert_folder", "a task of no role"

    def test_reading_does_not_change_the_manifest(self) -> None:
        """Facts B1: the first run emptied the arguments of all later ones."""
        manifest = load_manifest(DATA / "config_model.yaml")
        before = yaml.safe_dump(manifest.data)
        assert packager.read(manifest) == packager.read(manifest)
        assert yaml.safe_dump(manifest.data) == before


class TestS2InputsStayInputs:
    """Facts S2: the author of a container decided whether patient data was mounted writable."""

    @pytest.mark.parametrize(
        ("task", "label"),
        [
            ("infer", "data_path"),
            ("prepare", "labels_path"),
            ("sanity_check", "data_path"),
            ("statistics", "labels_path"),
            ("evaluate", "labels"),
            ("evaluate", "predictions"),
            ("infer", "additional_files"),
            ("train", "additional_files"),
        ],
    )
    def test_an_input_called_an_output_is_refused(self, task: str, label: str) -> None:
        message = refusal(model(outputs=f"{label}: {{mount_path: /a, type: directory}}", task=task))
        assert f"tasks.{task}.output_volumes.{label} (line 8)" in message
        assert f"{label} is an input of {task}" in message

    def test_an_output_called_an_input_is_refused(self) -> None:
        assert "output_path is an output of infer" in refusal(model("output_path: {mount_path: /a, type: directory}"))

    def test_nor_can_one_be_both(self) -> None:
        volume = "x: {mount_path: /a, type: file}"
        assert "is an input already" in refusal(model(volume, volume, task="train"))


def test_b7_unknown_labels_are_refused_when_read() -> None:
    """Facts B7: they ended a run with a KeyError."""
    message = refusal(model("labels_path: {mount_path: /a, type: directory}"))
    assert "tasks.infer.input_volumes.labels_path (line 7): infer has no such volume" in message
    assert "parameters_file, additional_files, data_path" in message


class TestS3MountPaths:
    """Facts S3: a comma in a mount path became a second bind of any folder of the host."""

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/mlcube_io0", "/mlcube_io0"),
            ("/a/b/", "/a/b"),
            ("//a///b/./c", "/a/b/c"),
            ("/usr/src/app/data",) * 2,
            ("/data with space",) * 2,
            ("/developers",) * 2,
            ("/etcetera/x",) * 2,
            ("/opt/x",) * 2,
        ],
    )
    def test_good(self, path: str, expected: str) -> None:
        (volume,) = read(model(at(f'"{path}"'))).tasks["infer"].volumes
        assert volume.mount_path == expected

    @pytest.mark.parametrize(
        "path",
        [
            "/data:ro,/etc:/hostetc",
            "/a:b",
            "/a,b",
            "/a\\tb",
            "/a\\nb",
            "/a\\0",
            "/a/../b",
            "/..",
            "a/b",
            "",
            "/",
            "//",
            "/./",
            "/proc",
            "/proc/self",
            "/sys/x",
            "/dev/shm",
            "/etc/passwd",
            "/run/x",
            "/var/run/docker.sock",
            "/tmp",
            "/tmp/x",
            "/boot",
            "/usr",
            "/bin",
            "/lib64",
            "/home",
            "/opt/",
            "/a\\\\b",
            "/a$b",
            "/a'b",
            "/a\\u202Eb",
            "//etc/x",
            "/./proc",
        ],
    )
    def test_bad(self, path: str) -> None:
        assert "tasks.infer.input_volumes.data_path.mount_path (line 7)" in refusal(model(at(f'"{path}"')))

    @pytest.mark.parametrize("path", ["3", "[/a]", "null", '"/' + "a" * 1000 + '"'])
    def test_not_even_a_path(self, path: str) -> None:
        assert "mount_path" in refusal(model(at(path)))

    @pytest.mark.parametrize(("first", "second"), [("/a", "/a"), ("/a", "/a/b"), ("/a/b", "/a"), ("/a/", "//a")])
    def test_places_must_not_overlap(self, first: str, second: str) -> None:
        message = refusal(model(at(first), f"output_path: {{mount_path: {second}, type: directory}}"))
        assert "output_volumes.output_path (line 8)" in message
        assert "within, that of data_path" in message

    def test_similar_names_do_not_overlap(self) -> None:
        read(model(at("/a"), "output_path: {mount_path: /ab, type: directory}"))


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ("data_path: {mount_path: /a}", "type must be given"),
        ("data_path: {type: file}", "mount_path must be given"),
        ("data_path: {}", "mount_path and type must be given"),
        ("data_path: null", "mount_path and type must be given"),
        ("data_path: /a", "must be a map"),
        (at("/a", "dir"), "type (line 7): must be file or directory"),
        (at("/a", "file"), "data_path of infer is a directory, not a file"),
        (
            "data_path: {mount_path: /a, type: directory, mode: rw}",
            "data_path.mode (line 7): there is no such key here",
        ),
        ("'a b': {mount_path: /a, type: file}", "is not usable as the name of a volume"),
    ],
)
def test_broken_volumes(volume: str, words: str) -> None:
    assert words in refusal(model(volume))


@pytest.mark.parametrize(
    ("run_args", "words"),
    [
        ("network: host", "run_args.network (line 6): there is no such key here"),
        ("privileged: true", "no such key"),
        ("volumes: []", "no such key"),
        ("user: root", "no such key"),
        ("comand: x", "Did you mean command?"),
        ('command: "a \'b"', "unbalanced quotes"),
        ("command: 3", "must be text or a list"),
        ("command: [a, 3]", "must be text or a list"),
        ("entrypoint: {a: b}", "must be text or a list"),
        ("environment: [A=1]", "must be a map of variables"),
        ("environment: {A: true}", "environment.A (line 6): must be text"),
        ("environment: {A: null}", "must be text"),
        ("environment: {A=B: x}", "cannot be a variable"),
        ("shm_size: huge", "must be a size such as 2g"),
        ("shm_size: 0", "must be a size"),
        ("shm_size: true", "a size"),
        ("gpus: some", "does not say which GPUs"),
        ("gpus: [0]", "does not say which GPUs"),
    ],
)
def test_broken_run_args(run_args: str, words: str) -> None:
    assert words in refusal(model(run_args=run_args))


@pytest.mark.parametrize(
    ("run_args", "expected"),
    [
        ("shm_size: 1073741824", ("1073741824", None, {})),
        ("shm_size: 1.5gb", ("1.5gb", None, {})),
        ("gpus: all", (None, "all", {})),
        ("gpus: 2", (None, "2", {})),
        ("gpus: 'none'", (None, "none", {})),
        ("environment: {A: 1, B: 0.5, C: ''}", (None, None, {"A": "1", "B": "0.5", "C": ""})),
        ("", (None, None, {})),
        ("shm_size: null, gpus: null, environment: null, command: null, entrypoint: null", (None, None, {})),
    ],
)
def test_run_args(run_args: str, expected: tuple[Any, ...]) -> None:
    task = read(model(run_args=run_args)).tasks["infer"]
    assert (task.shm_size, task.gpus, dict(task.environment)) == expected


def test_variables_that_choose_gpus_are_left_out() -> None:
    spec = read(model(run_args="environment: {NVIDIA_VISIBLE_DEVICES: all, CUDA_VISIBLE_DEVICES: '0', A: b}"))
    assert dict(spec.tasks["infer"].environment) == {"A": "b"}
    assert len(spec.notes) == 2


class TestSources:
    def text(self, kind: str, image: str) -> str:
        return f"container_type: {kind}\nimage: {image}\ntasks: {{infer: {{}}}}\n"

    @pytest.mark.parametrize("kind", ["EncryptedDockerArchive", "EncryptedSingularityFile"])
    def test_encrypted_images_are_refused_clearly(self, kind: str) -> None:
        assert f"container_type (line 1): {kind} is not supported yet" in refusal(self.text(kind, "https://a/b"))

    @pytest.mark.parametrize("kind", ["mlcube", "dockerimage", "3", "[a]", "''", "null"])
    def test_other_types_are_refused(self, kind: str) -> None:
        assert "must be one of DockerImage, DockerArchive, SingularityFile" in refusal(self.text(kind, "a"))

    @pytest.mark.parametrize(
        ("kind", "image"),
        [
            ("DockerArchive", "https://files.example.org/m.tar"),
            ("SingularityFile", "synapse:syn123"),
        ],
    )
    def test_a_resource_is_carried(self, kind: str, image: str, tmp_path: Path) -> None:
        for base in (None, tmp_path):
            spec = read(self.text(kind, image), base=base)
            assert spec.sources == ()
            assert spec.carried == {"container_type": kind, "image_url": image}

    @pytest.mark.parametrize(
        ("kind", "source"), [("DockerArchive", SourceKind.ARCHIVE), ("SingularityFile", SourceKind.SIF)]
    )
    def test_an_image_file_that_is_here(self, kind: str, source: SourceKind, tmp_path: Path) -> None:
        (tmp_path / "m.img").write_text("x")
        spec = read(self.text(kind, "./m.img"), base=tmp_path)
        assert spec.sources == (ImageSource(source, str(tmp_path / "m.img")),)
        assert read(self.text(kind, "./m.img")).sources == ()

    def test_but_not_elsewhere_on_this_machine(self, tmp_path: Path) -> None:
        (tmp_path / "m.img").write_text("x")
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "link").symlink_to("../m.img")
        for image in ("../m.img", str(tmp_path / "m.img"), "link", "."):
            assert read(self.text("DockerArchive", image), base=tmp_path / "c").sources == ()

    @pytest.mark.parametrize(
        ("image", "words"),
        [("null", "where the image is"), ("Bad Name", "is not an image reference"), ("3", "must be text")],
    )
    def test_broken_images(self, image: str, words: str) -> None:
        assert words in refusal(self.text("DockerImage", image))

    def test_a_project_beside_it(self, tmp_path: Path) -> None:
        (tmp_path / "src").mkdir()
        spec = read(self.text("DockerImage", "a") + "process: {project: src, tasks: {infer: [x]}}", base=tmp_path)
        assert [source.kind for source in spec.sources] == [SourceKind.REGISTRY, SourceKind.TREE]
        assert spec.project == str(tmp_path / "src")


UNDERSTOOD, CARRIED = "understood", "carried"


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("name: n", UNDERSTOOD),
        ("description: d", UNDERSTOOD),
        ("process: {project: p, tasks: {}}", UNDERSTOOD),
        ("x-own: {a: 1}", CARRIED),
        ("nam: n", "Did you mean name?"),
        ("task: {}", "Did you mean tasks?"),
        ("version: 1", "there is no such key here"),
        ("run_args: {}", "there is no such key here"),
        ("docker: {}", "there is no such key here"),
        ("process: {projct: p}", "Did you mean project?"),
    ],
)
def test_every_key_is_understood_carried_or_refused(line: str, outcome: str) -> None:
    text = model(at("/a"), more=line)
    ((key, value),) = yaml.safe_load(line).items()
    if outcome in (UNDERSTOOD, CARRIED):
        carried = read(text).carried
        assert carried == {"container_type": "DockerImage"} | ({key: value} if outcome == CARRIED else {})
    else:
        message = refusal(text)
        assert outcome in message
        assert "(line 3)" in message


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("[a]", "must be a map of tasks"),
        ("{}", "there are none"),
        ("{infer: 3}", "must be a map"),
        ("{'a/b': {}}", "not usable as the name of a task"),
        ("{infer: {volumes: {}}}", "there is no such key here"),
        ("{infer: {input_volume: {}}}", "Did you mean input_volumes?"),
        ("{infer: {run_args: []}}", "must be a map"),
    ],
)
def test_malformed_tasks(tasks: str, words: str) -> None:
    assert words in refusal(f"container_type: DockerImage\nimage: a\ntasks: {tasks}")


def test_recognizes_its_own_format_only() -> None:
    assert packager.recognizes({"container_type": "anything"})
    assert not packager.recognizes({"docker": {}, "tasks": {}})


def test_files_beside_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "parameters.yaml").write_text("")
    found = packager.files(tmp_path / "container_config.yaml")
    assert (found.parameters, found.additional_files) == (tmp_path / "workspace" / "parameters.yaml", None)


def test_template() -> None:
    data = yaml.safe_load((DATA / "config_data_preparator.yaml").read_text())
    data["process"]["project"] = "elsewhere"
    new = packager.template(data, "Mine")
    assert (new["name"], new["image"], new["process"]["project"]) == ("Mine", "mine:latest", "../project")
    assert data["process"]["project"] == "elsewhere"
    assert packager.read(manifest_from_data(new, "new")).tasks == packager.read(manifest_from_data(data, "old")).tasks
    with pytest.raises(InvalidEntityError):
        packager.template({"container_type": "DockerImage", "process": "x"}, "m")


words = st.sampled_from(
    [
        "container_type",
        "DockerImage",
        "DockerArchive",
        "image",
        "tasks",
        "infer",
        "train",
        "run_args",
        "input_volumes",
        "output_volumes",
        "data_path",
        "output_path",
        "mount_path",
        "type",
        "file",
        "directory",
        "/a",
        "/a/b",
        "/a,b:ro",
        "command",
        "entrypoint",
        "environment",
        "shm_size",
        "gpus",
        "process",
        "project",
        "name",
        "x-",
        "a'",
        "..",
        "\x00",
    ]
)
nested = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=5), inner, max_size=5),
    max_leaves=30,
)


@settings(deadline=None, max_examples=400)
@given(st.dictionaries(words, nested, max_size=6), nested, nested)
def test_any_content_is_read_or_refused(top: dict[str, Any], volumes: Any, run_args: Any) -> None:
    tasks = {name: {"input_volumes": volumes, "run_args": run_args} for name in ("infer", "train")}
    for data in (top, {"container_type": "DockerImage", "image": "a", "tasks": tasks}):
        try:
            spec = packager.read(manifest_from_data(data, "it"))
        except InvalidEntityError as error:
            assert len(str(error)) < 20_000
        else:
            check_role(spec, Role.MODEL)

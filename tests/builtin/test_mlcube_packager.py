"""mlcube.yaml: the files of the field are understood; what could do harm or be misread is refused or noted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medperf_core.builtin import mlcube
from medperf_core.entities.image import ImageSource, SourceKind
from medperf_core.entities.roles import Role, VolumeKind
from medperf_core.entities.spec import CommandStyle, ContainerSpec, VolumeSpec
from medperf_core.errors import InvalidEntityError
from medperf_core.plugin.layout import container_layout
from medperf_core.plugin.manifest import load_manifest, manifest_from_data, parse_manifest
from medperf_core.plugin.role_check import check_role
from medperf_core.plugin.runner import Mount
from medperf_core.plugin.settings import NoSettings

DATA = Path(__file__).parents[1] / "data" / "manifests"
FILE, DIRECTORY = VolumeKind.FILE, VolumeKind.DIRECTORY
(plugin,) = mlcube.medperf_packagers()
packager = plugin.make(NoSettings())


def read(text: str, **manifest: Any) -> ContainerSpec:
    return packager.read(parse_manifest(text.encode(), name="it", **manifest))


def field(name: str) -> ContainerSpec:
    return packager.read(parse_manifest((DATA / f"{name}.yaml").read_bytes(), name=name))


def model(inputs: str = "data_path: data/", outputs: str = "output_path: out/", more: str = "") -> str:
    return (
        f"docker: {{image: example/m:1}}\n{more}\ntasks:\n  infer:\n    parameters:\n"
        f"      inputs: {{{inputs}}}\n      outputs: {{{outputs}}}\n"
    )


def with_docker(section: str, accelerators: int = 0) -> ContainerSpec:
    return read(
        f"platform: {{accelerator_count: {accelerators}}}\ndocker: {{image: example/m:1, {section}}}\n"
        "tasks: {infer: {}}"
    )


def refusal(text: str, **manifest: Any) -> str:
    with pytest.raises(InvalidEntityError) as caught:
        read(text, **manifest)
    assert caught.value.problems
    return str(caught.value)


def volume(spec: ContainerSpec, task: str, label: str) -> VolumeSpec:
    return next(item for item in spec.tasks[task].volumes if item.label == label)


def test_the_plugin_module_is_light() -> None:
    code = (
        "import sys; import medperf_core.builtin.mlcube as m; list(m.medperf_packagers());"
        "print([n for n in sys.modules if n == 'yaml' or n.startswith('medperf_core.builtin._')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert (plugin.name, plugin.api, packager.file_names) == ("mlcube", 1, ("mlcube.yaml",))


class TestField:
    @pytest.mark.parametrize(
        ("name", "role"),
        [
            ("mlcube_data_preparator", Role.DATA_PREPARATOR),
            ("mlcube_model", Role.MODEL),
            ("mlcube_gandlf_deployed", Role.MODEL),
            ("mlcube_evaluator", Role.METRICS),
            ("mlcube_process", Role.MODEL),
        ],
    )
    def test_plays_its_role(self, name: str, role: Role) -> None:
        spec = field(name)
        assert check_role(spec, role) == []
        assert spec.format == "mlcube"
        assert {task.style for task in spec.tasks.values()} == {CommandStyle.MLCUBE}

    def test_data_preparator(self) -> None:
        spec = field("mlcube_data_preparator")
        assert spec.name == "Lung nodule preparator"
        assert spec.sources == (ImageSource(SourceKind.REGISTRY, "registry.example.org/nodule/prep:0.3.1"),)
        assert spec.carried["authors"] == [
            {"name": "Radiology Lab", "email": "lab@example.org", "org": "Example Hospital"}
        ]
        assert spec.tasks["prepare"].volumes == (
            VolumeSpec("data_path", False, DIRECTORY, "data_path"),
            VolumeSpec("labels_path", False, DIRECTORY, "labels_path"),
            VolumeSpec("parameters_file", False, FILE, "parameters_file"),
            VolumeSpec("atlas", False, DIRECTORY, "additional_files", "atlas"),
            VolumeSpec("output_path", True, DIRECTORY, "output_path"),
            VolumeSpec("output_labels_path", True, DIRECTORY, "output_labels_path"),
            VolumeSpec("metadata_path", True, DIRECTORY, "metadata_path"),
            VolumeSpec("report_file", True, FILE, "report_file"),
        )
        assert spec.notes == ()

    def test_model(self) -> None:
        spec = field("mlcube_model")
        task = spec.tasks["infer"]
        assert (task.shm_size, task.gpus, dict(task.environment)) == ("2gb", "all", {})
        assert volume(spec, "infer", "weights") == VolumeSpec("weights", False, FILE, "additional_files", "weights.pt")
        assert volume(spec, "infer", "extractor") == VolumeSpec(
            "extractor", False, DIRECTORY, "additional_files", "extractor"
        )
        assert spec.description == "Finds nodules.\n"
        assert spec.carried["singularity.image"] == "nodule-net.sif"
        assert spec.carried["platform.host_memory_gb"] == 40
        assert any("'--ipc=host'" in note and "--shm-size" in note for note in spec.notes)
        assert any("nodule-net.sif" in note for note in spec.notes)

    def test_gandlf(self) -> None:
        spec = field("mlcube_gandlf_deployed")
        assert spec.tasks["infer"].entrypoint == (
            "gandlf",
            "run",
            "--infer",
            "--device",
            "cuda",
            "--modeldir",
            "/embedded_model/",
            "--config",
            "/embedded config.yml",
        )
        assert spec.tasks["infer"].gpus == "1"
        assert volume(spec, "infer", "model-dir") == VolumeSpec(
            "model-dir", False, DIRECTORY, "additional_files", "model"
        )
        assert volume(spec, "train", "output_path").kind is DIRECTORY

    def test_an_entrypoint_takes_the_place_of_the_task_name(self, tmp_path: Path) -> None:
        task = field("mlcube_evaluator").tasks["evaluate"]
        mounts = tuple(Mount(item.label, tmp_path / item.label, item.kind, item.writable) for item in task.volumes)
        layout = container_layout(task, mounts)
        assert layout.entrypoint == ("python3",)
        assert layout.command[:2] == ("/entrypoint.py", "--predictions=/mlcube_io0")


class TestS2InputsStayInputs:
    """Facts S2: the author of a container decided whether patient data was mounted writable."""

    @pytest.mark.parametrize("label", ["data_path", "parameters_file", "additional_files"])
    def test_an_input_called_an_output_is_refused(self, label: str) -> None:
        message = refusal(model(inputs="", outputs=f"{label}: {{type: directory}}"))
        assert f"tasks.infer.parameters.outputs.{label} (line 7)" in message
        assert f"{label} is an input of infer" in message

    def test_in_every_task_of_every_role(self) -> None:
        for task, label in [
            ("prepare", "labels_path"),
            ("sanity_check", "data_path"),
            ("statistics", "labels_path"),
            ("evaluate", "predictions"),
            ("evaluate", "labels"),
            ("train", "parameters_file"),
        ]:
            text = f"docker: {{image: a}}\ntasks: {{{task}: {{parameters: {{outputs: {{{label}: x/}}}}}}}}"
            assert f"{label} is an input of {task}" in refusal(text)

    def test_an_input_is_never_writable_whatever_its_opts_say(self) -> None:
        spec = read(model(inputs="data_path: {type: directory, default: data, opts: rw}"))
        assert not volume(spec, "infer", "data_path").writable
        assert any("opts is ignored" in note for note in spec.notes)

    def test_nothing_below_the_additional_files_is_an_output(self) -> None:
        spec = read(model(outputs="output_path: out/, cache: additional_files/cache/"))
        assert volume(spec, "infer", "cache").offer == "cache"
        assert check_role(spec, Role.MODEL) == [
            "infer: remove the output cache; the outputs of this task are: output_path."
        ]

    def test_an_output_called_an_input_is_refused(self) -> None:
        assert "output_path is an output of infer" in refusal(model(inputs="output_path: out/", outputs=""))

    def test_nor_can_one_be_both(self) -> None:
        assert "is an input already" in refusal(model(inputs="x: a/", outputs="x: a/"))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("w: parameters.yaml", ("parameters_file", "", FILE)),
        ("w: ./parameters.yaml", ("parameters_file", "", FILE)),
        ("w: '${workspace}/parameters.yaml'", ("parameters_file", "", FILE)),
        ("w: additional_files", ("additional_files", "", DIRECTORY)),
        ("w: additional_files/", ("additional_files", "", DIRECTORY)),
        ("w: additional_files/a/b.bin", ("additional_files", "a/b.bin", FILE)),
        ("w: additional_files/a.d/", ("additional_files", "a.d", DIRECTORY)),
        ("w: {type: file, default: additional_files/plain}", ("additional_files", "plain", FILE)),
        ("w: additional_files_2/x.bin", ("w", "", FILE)),
        ("w: other", ("w", "", DIRECTORY)),
        ("w: /home/me/x.csv", ("w", "", FILE)),
        ("w: null", ("w", "", DIRECTORY)),
        ("w: {}", ("w", "", DIRECTORY)),
        ("additional_files: additional_files/", ("additional_files", "", DIRECTORY)),
        ("additional_files: extra/", ("additional_files", "", DIRECTORY)),
        ("parameters_file: config.yml", ("parameters_file", "", FILE)),
    ],
)
def test_what_an_input_stands_for(inputs: str, expected: tuple[str, str, VolumeKind]) -> None:
    (found,) = read(model(inputs=inputs, outputs="")).tasks["infer"].volumes
    assert (found.offer, found.subpath, found.kind) == expected
    assert not found.writable


@pytest.mark.parametrize(
    "path",
    [
        "additional_files/../../secret",
        "/additional_files/x",
        "../additional_files/x",
        "additional_files\\\\x",
        "additional_files/../additional_files/x",
        "additional_files/\\u3000x",
    ],
)
def test_paths_out_of_the_additional_files_are_refused(path: str) -> None:
    assert "must be a plain path below additional_files/" in refusal(model(inputs=f'w: "{path}"'))


def test_kind_by_what_is_in_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "workspace" / "additional_files" / "tree.d").mkdir(parents=True)
    (tmp_path / "workspace" / "additional_files" / "plain").write_text("x")
    spec = read(model(inputs="t: additional_files/tree.d, p: additional_files/plain"), base=tmp_path)
    assert volume(spec, "infer", "t").kind is DIRECTORY
    assert volume(spec, "infer", "p").kind is FILE


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ("data_path: {type: file, default: x}", "", "data_path of infer is a directory, not a file"),
        ("parameters_file: params/", "", "parameters_file of infer is a file, not a directory"),
        ("data_path: {type: str, default: x}", "", "data_path.type (line 6): must be file or directory, not 'str'"),
        ("data_path: {type: directory, default: 3}", "", "data_path.default (line 6): must be text"),
        ("data_path: {type: directory, opts: ro+}", "", "opts (line 6): must be ro or rw"),
        ("data_path: [a]", "", "data_path (line 6): must be a map, not 'list'"),
        ("'type:file': x, 'a b': y", "", "is not usable as the name of a parameter"),
        ("data_path: {kind: file}", "", "data_path.kind (line 6): there is no such key here"),
        ("", "extra: somewhere", "extra (line 7): does not say whether it is a file or a folder"),
    ],
)
def test_broken_volumes(inputs: str, outputs: str, words: str) -> None:
    assert words in refusal(model(inputs, outputs))


class TestEntrypoint:
    def test_is_split_like_a_shell_would(self) -> None:
        spec = read('docker: {image: a}\ntasks: {infer: {entrypoint: "sh -c \'a b\' \\\\\\"c"}}')
        assert spec.tasks["infer"].entrypoint == ("sh", "-c", "a b", '"c')

    @pytest.mark.parametrize(
        ("entrypoint", "words"),
        [
            ('"sh -c \'a"', "unbalanced quotes"),
            ("3", "must be text or a list of text"),
            ("[sh, 3]", "must be text or a list of text"),
            ("{a: b}", "must be text or a list of text"),
            ('"a\\0b"', "NUL"),
        ],
    )
    def test_malformed(self, entrypoint: str, words: str) -> None:
        message = refusal(f"docker: {{image: a}}\ntasks:\n  infer:\n    entrypoint: {entrypoint}")
        assert "tasks.infer.entrypoint (line 4)" in message
        assert words in message

    def test_none_leaves_the_image_alone(self) -> None:
        assert read("docker: {image: a}\ntasks: {infer: {entrypoint: null}}").tasks["infer"].entrypoint == ()


class TestEngineOptions:
    @pytest.mark.parametrize(
        ("section", "accelerators", "expected"),
        [
            ("gpu_args: --gpus all", 1, (None, "all", {})),
            ("gpu_args: --gpus=2", 1, (None, "2", {})),
            ('gpu_args: "--gpus \'\\"device=0,1\\"\'"', 1, (None, "device=0,1", {})),
            ("gpu_args: --runtime=nvidia", 1, (None, "all", {})),
            ("'--gpus': 3", 1, (None, "3", {})),
            ("", 2, (None, "2", {})),
            ("gpu_args: --gpus all", 0, (None, None, {})),
            ("gpu_args: --shm-size 12g", 0, ("12g", None, {})),
            ("cpu_args: --shm-size 1g, gpu_args: --shm-size 2g", 0, ("1g", None, {})),
            ("cpu_args: --shm-size 1g, gpu_args: --shm-size 2g", 1, ("2g", "1", {})),
            (
                "cpu_args: -e A=1 -eB=2 --env=C=3=4 --env D=5",
                0,
                (None, None, {"A": "1", "B": "2", "C": "3=4", "D": "5"}),
            ),
            ("cpu_args: -it -ie A=1", 0, (None, None, {"A": "1"})),
            ("env_args: {A: 1, B: two}", 0, (None, None, {"A": "1", "B": "two"})),
            ("env_args: -e A=1", 0, (None, None, {"A": "1"})),
            ("run_args: [--shm-size, 512m]", 0, ("512m", None, {})),
        ],
    )
    def test_wishes(self, section: str, accelerators: int, expected: tuple[Any, ...]) -> None:
        task = with_docker(section, accelerators).tasks["infer"]
        assert (task.shm_size, task.gpus, dict(task.environment)) == expected

    @pytest.mark.parametrize(
        ("option", "reason"),
        [
            ("--privileged", "widen the isolation"),
            ("--ipc=host", "write --shm-size"),
            ("--pid host", "widen"),
            ("--cap-add=SYS_ADMIN", "widen"),
            ("--security-opt seccomp=unconfined", "widen"),
            ("--device /dev/kvm", "widen"),
            ("--network host", "without network"),
            ("--net=host", "without network"),
            ("-p 80:80", "without network"),
            ("-v /:/host", "what is mounted"),
            ("-v/:/host", "what is mounted"),
            ("--mount type=bind,src=/", "mounted"),
            ("--volumes-from other", "mounted"),
            ("-u 0", "as whom"),
            ("--user=root", "as whom"),
            ("-u0", "as whom"),
            ("--memory 1t", "limits"),
            ("--ulimit memlock=-1", "limits"),
            ("--env-file /etc/environment", "files of this"),
            ("-e HOME", "taken from the machine"),
            ("-e NVIDIA_VISIBLE_DEVICES=all", "chooses the GPUs"),
            ("-e 'X=${oc.env:HOME}'", "taken from the machine"),
            ("--gpus all,capabilities=utility", "not understood"),
            ("--new-thing x", "not understood"),
            ("stray", "not understood"),
            ("--rm", "not understood"),
        ],
    )
    def test_all_else_is_ignored_and_told(self, option: str, reason: str) -> None:
        spec = with_docker(f'cpu_args: "{option} --shm-size 2g"')
        assert len(spec.notes) == 1
        assert spec.notes[0].startswith("docker.cpu_args: ")
        assert "ignored" in spec.notes[0]
        assert reason in spec.notes[0]
        task = spec.tasks["infer"]
        assert (task.shm_size, task.gpus, dict(task.environment)) == ("2g", None, {})

    @pytest.mark.parametrize("key", ["--network", "--security-opt", "--memory", "--cpuset-cpus", "--mount_opts"])
    def test_so_are_options_that_are_keys(self, key: str) -> None:
        (note,) = with_docker(f"'{key}': some").notes
        assert f"ignored: '{key}=some'" in note

    @pytest.mark.parametrize(
        ("section", "words"),
        [
            ('cpu_args: "-e \'A=1"', "docker.cpu_args (line 2): has unbalanced quotes"),
            ("gpu_args: {a: b}", "docker.gpu_args (line 2): must be text"),
            ("gpu_args: --shm-size lots", "must be a size such as 2g"),
            ("cpu_args: -e 1A=2", "'1A' cannot be a variable"),
            ("env_args: {A: true}", "docker.env_args.A (line 2): must be text"),
            ("env_args: {'A B': x}", "cannot be a variable"),
            ("build_strategy: sometimes", "must be one of pull, auto, always"),
        ],
    )
    def test_malformed(self, section: str, words: str) -> None:
        assert words in refusal(f"\ndocker: {{image: a, {section}}}\ntasks: {{infer: {{}}}}")

    def test_internet_is_not_given(self) -> None:
        spec = read(model(more="platform: {need_internet_access: true}"))
        assert spec.notes == ("platform.need_internet_access is ignored: tasks run without network.",)


class TestSources:
    @pytest.fixture
    def cube(self, tmp_path: Path) -> Path:
        (tmp_path / "mlcube" / "workspace").mkdir(parents=True)
        (tmp_path / "project").mkdir()
        (tmp_path / "project" / "Dockerfile").write_text("FROM scratch\n")
        return tmp_path / "mlcube"

    def sources(self, cube: Path, text: str) -> list[str]:
        (cube / "mlcube.yaml").write_text(text + "\ntasks: {infer: {}}")
        spec = packager.read(load_manifest(cube / "mlcube.yaml"))
        return [f"{source.kind.value} {Path(source.location).name} {source.dockerfile}" for source in spec.sources]

    def test_what_is_here_comes_first(self, cube: Path) -> None:
        found = self.sources(cube, "docker: {image: example/m:1, build_context: ../project}")
        assert found == ["tree project Dockerfile", "registry m:1 None"]

    def test_unless_the_manifest_wants_to_pull(self, cube: Path) -> None:
        found = self.sources(cube, "docker: {image: example/m:1, build_context: ../project, build_strategy: pull}")
        assert found == ["registry m:1 None", "tree project Dockerfile"]

    def test_project_and_context_are_one_tree_if_they_are_one_folder(self, cube: Path) -> None:
        text = "docker: {image: example/m:1, build_context: ../project/.}\nprocess: {project: ../mlcube/../project}"
        assert self.sources(cube, text) == ["tree project Dockerfile", "registry m:1 None"]

    def test_and_two_if_not(self, cube: Path) -> None:
        (cube / "src").mkdir()
        found = self.sources(cube, "docker: {image: example/m:1, build_context: ../project}\nprocess: {project: src}")
        assert found == ["tree project Dockerfile", "tree src None", "registry m:1 None"]

    def test_the_project_alone_is_enough(self, cube: Path) -> None:
        assert self.sources(cube, "process: {project: ../project}") == ["tree project None"]
        spec = packager.read(load_manifest(cube / "mlcube.yaml"))
        assert spec.project == str(cube.parent / "project")

    def test_without_a_build_file_nothing_is_built(self, cube: Path) -> None:
        text = "docker: {image: example/m:1, build_context: ../project, build_file: Other}"
        assert self.sources(cube, text) == ["registry m:1 None"]
        (note,) = packager.read(load_manifest(cube / "mlcube.yaml")).notes
        assert "'Other' is not in the build context" in note

    def test_a_build_file_cannot_lie_outside(self, cube: Path) -> None:
        (cube / "Dockerfile").write_text("FROM scratch\n")
        text = "docker: {image: example/m:1, build_context: ../project, build_file: ../mlcube/Dockerfile}"
        assert self.sources(cube, text) == ["registry m:1 None"]

    @pytest.mark.parametrize("context", ["/etc", "../..", "../../..", "link"])
    def test_other_folders_of_the_machine_are_no_build_context(self, cube: Path, context: str) -> None:
        (cube / "link").symlink_to("/etc")
        (cube.parent.parent / "Dockerfile").write_text("FROM scratch\n")
        text = f"docker: {{image: example/m:1, build_context: {context}}}"
        assert self.sources(cube, text) == ["registry m:1 None"]
        notes = packager.read(load_manifest(cube / "mlcube.yaml")).notes
        assert "docker.build_context is ignored" in notes[0]

    @pytest.mark.parametrize("project", ["/etc", "../..", "link"])
    def test_nor_a_project(self, cube: Path, project: str) -> None:
        (cube / "link").symlink_to("/etc")
        with pytest.raises(InvalidEntityError, match=r"process\.project \(line 1\)"):
            self.sources(cube, f"process: {{project: {project}}}")

    def test_image_files_where_mlcubes_keep_them(self, cube: Path) -> None:
        images = cube / "workspace" / ".image"
        images.mkdir()
        (images / "m.sif").write_text("x")
        (images / "m.tar").write_text("x")
        (cube / "out.sif").write_text("x")
        text = "docker: {image: example/m:1, tar_file: m.tar}\nsingularity: {image: m.sif}"
        assert self.sources(cube, text) == ["archive m.tar None", "registry m:1 None", "sif m.sif None"]
        assert self.sources(cube, "singularity: {image: ../../out.sif}") == []

    @pytest.mark.parametrize(
        ("docker", "instead"), [("docker: {image: example/m:1}", "docker.image is used"), ("", "")]
    )
    def test_an_image_file_is_missed_only_where_it_is_not(self, cube: Path, docker: str, instead: str) -> None:
        (cube / "workspace" / ".image").mkdir()
        text = f"{docker}\nsingularity: {{image: m.sif}}\ntasks: {{infer: {{}}}}"
        (cube / "mlcube.yaml").write_text(text)
        (note,) = packager.read(load_manifest(cube / "mlcube.yaml")).notes
        assert "'m.sif' is not in workspace/.image" in note and instead in note
        (cube / "workspace" / ".image" / "m.sif").write_text("x")
        assert packager.read(load_manifest(cube / "mlcube.yaml")).notes == ()

    def test_from_a_server_with_its_project(self, tmp_path: Path) -> None:
        (tmp_path / "Dockerfile").write_text("FROM scratch\n")
        data = yaml.safe_load((DATA / "mlcube_process.yaml").read_text())
        spec = packager.read(manifest_from_data(data, "container 3", project=tmp_path))
        assert spec.sources == (
            ImageSource(SourceKind.TREE, str(tmp_path), "Dockerfile", "example/threshold:1"),
            ImageSource(SourceKind.REGISTRY, "example/threshold:1"),
        )
        assert spec.project == str(tmp_path)

    def test_from_a_server_without_it(self) -> None:
        spec = field("mlcube_process")
        assert [str(source) for source in spec.sources] == ["registry example/threshold:1"]
        assert spec.project is None

    @pytest.mark.parametrize(
        "image",
        [
            "name",
            "org/name",
            "org/name:1.0",
            "localhost:5000/a/b:x",
            "docker.io/org/name@sha256:" + "a" * 64,
            "ghcr.io/Some/lower".lower(),
            "Host.example.org/a_b-c.d__e:T_1-x",
            "[::1]:5000/a",
        ],
    )
    def test_b16_image_references(self, image: str) -> None:
        text = f"docker: {{image: '{image}'}}\ntasks: {{infer: {{}}}}"
        assert read(text).sources == (ImageSource(SourceKind.REGISTRY, image),)

    @pytest.mark.parametrize(
        "image",
        [
            "your image name",
            "Org/Name",
            "a:b:c",
            "-x",
            "--privileged",
            "a//b",
            "https://example.org/a",
            "${docker.image}",
            "a@sha256:12",
            "a" * 501,
            "name:",
            "a/../b",
        ],
    )
    def test_what_is_no_image_reference(self, image: str) -> None:
        message = refusal(f"docker: {{image: '{image}'}}\ntasks: {{infer: {{}}}}")
        assert "docker.image" in message

    def test_an_image_must_come_from_somewhere(self) -> None:
        assert "does not say where its image is" in refusal("docker: {build_context: .}\ntasks: {infer: {}}")


class TestProcess:
    def test_commands(self) -> None:
        assert field("mlcube_process").tasks["infer"].process_command == (
            "python3",
            "main.py",
            "infer",
            "--data_path={data_path}",
            "--out",
            "{output_path}",
            '--json={"deep": {}}',
        )

    @pytest.mark.parametrize(
        ("tasks", "words"),
        [
            (
                "infer: [a, '{labels}']",
                "process.tasks.infer (line 2): '{labels}' names no volume of this task; there are: "
                "{data_path}, {output_path}",
            ),
            ("infr: [a]", "process.tasks.infr (line 2): the manifest has no task of this name. Did you mean infer?"),
            ("infer: python3 main.py", "must be a list of words"),
            ("infer: []", "must be a list of words"),
            ("infer: ['', a]", "must be a list of words"),
            ("infer: [a, 3]", "must be text or a list of text"),
            ("infer: null", "must be a list of words"),
            ("infer: [{a: b}]", "must be text or a list of text"),
        ],
    )
    def test_malformed(self, tasks: str, words: str) -> None:
        assert words in refusal(model(more=f"process: {{project: ../project, tasks: {{{tasks}}}}}"))

    def test_needs_a_project(self) -> None:
        assert "project is missing" in refusal(model(more="process: {tasks: {infer: [a]}}"))

    def test_a_project_that_is_not_here_is_told(self, tmp_path: Path) -> None:
        spec = read(model(more="process: {project: src}"), base=tmp_path)
        assert spec.project is None
        assert "'src' is not here" in spec.notes[0]


UNDERSTOOD, CARRIED = "understood", "carried"
KEYS = {
    "name: n": UNDERSTOOD,
    "description: d": UNDERSTOOD,
    "process: {project: p}": UNDERSTOOD,
    "platform: {accelerator_count: 1, need_internet_access: false}": UNDERSTOOD,
    "authors: [x]": CARRIED,
    "author: x": CARRIED,
    "version: 1": CARRIED,
    "license: x": CARRIED,
    "x-own: {a: 1}": CARRIED,
    "mlcube_spec_version: 1": CARRIED,
    "schema_version: 1": CARRIED,
    "schema_type: x": CARRIED,
    "runner: {}": CARRIED,
    "gcp: {}": CARRIED,
    "k8s: {}": CARRIED,
    "kubeflow: {}": CARRIED,
    "ssh: {}": CARRIED,
    "platform: {accelerator_maker: x, accelerator_model: y, host_memory_gb: 1, host_disk_space_gb: 2}": CARRIED,
    "singularity: {image: x.sif, run_args: --nv, image_dir: x, build_context: x, build_file: x, build_args: x, "
    "singularity: x, --network: x, --security: x, --nv: x, --vm-ram: x, --vm-cpu: x, --mount_opts: x}": CARRIED,
    "nam: n": "Did you mean name?",
    "sanity_check: {}": "there is no such key here",
    "dcoker: {}": "Did you mean docker?",
    "platform: {accelerator_cuont: 1}": "Did you mean accelerator_count?",
    "container_type: x": "no such key",
    "singularity: {imge: x}": "Did you mean image?",
    "process: {project: p, task: {}}": "Did you mean tasks?",
    "platform: 3": "must be a map",
    "name: 3": "must be text",
    "name: {a: b}": "must be text",
    'name: "\\e[31m"': "without control characters",
    'description: "\\u202E"': "without control characters",
    "platform: {accelerator_count: -1}": "whole number",
    "platform: {accelerator_count: true}": "whole number",
    "singularity: [x]": "must be a map",
    "process: []": "must be a map",
}


@pytest.mark.parametrize(("line", "outcome"), KEYS.items())
def test_every_key_is_understood_carried_or_refused(line: str, outcome: str) -> None:
    text = model(more=line)
    ((key, value),) = yaml.safe_load(line).items()
    if outcome == UNDERSTOOD:
        assert not {name for name in read(text).carried if name.startswith(key)}
    elif outcome == CARRIED:
        carried = read(text).carried
        wanted = (
            {key: value}
            if key not in ("platform", "singularity")
            else {f"{key}.{inner}": item for inner, item in value.items()}
        )
        assert {name: item for name, item in carried.items() if name in wanted} == wanted
    else:
        message = refusal(text)
        assert outcome in message
        assert "(line 2)" in message


@pytest.mark.parametrize(
    ("docker", "words"),
    [
        ("build_args: {A: 1}", None),
        ("docker: podman", None),
        ("x-mine: 1", None),
        ("imag: x", "Did you mean image?"),
    ],
)
def test_every_key_of_docker_too(docker: str, words: str | None) -> None:
    text = f"docker: {{image: a, {docker}}}\ntasks: {{infer: {{}}}}"
    if words:
        assert words in refusal(text)
    else:
        assert list(read(text).carried) == [f"docker.{docker.partition(':')[0]}"]


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("[infer]", "a list is the layout of 2020"),
        ("{}", "there are none"),
        ("null", "there are none"),
        ("{'../x': {}}", "is not usable as the name of a task"),
        ("{infer: 3}", "must be a map"),
        ("{infer: {param: {}}}", "there is no such key here"),
        ("{infer: {parameters: {input: {}}}}", "Did you mean inputs?"),
        (
            "{parameters: {inputs: {}}}",
            "tasks.parameters.inputs (line 2): there is no such key here. Did you mean parameters.inputs?",
        ),
        ("{" + ", ".join(f"t{number}: {{}}" for number in range(201)) + "}", "has 201 tasks; at most 200"),
    ],
)
def test_malformed_tasks(tasks: str, words: str) -> None:
    assert words in refusal(f"docker: {{image: a}}\ntasks: {tasks}")


def test_all_problems_are_told_at_once() -> None:
    message = refusal("nam: x\ndocker: {image: A B}\ntasks: {infer: {parameters: {outputs: {data_path: x/}}}}")
    assert [line.split()[1] for line in message.splitlines()[1:]] == [
        "nam",
        "tasks.infer.parameters.outputs.data_path",
        "docker.image",
    ]


def test_many_problems_are_cut_and_cost_little() -> None:
    text = "docker: {image: a}\ntasks: {infer: {}}\n" + "\n".join(f"key{number}: x" for number in range(20_000))
    message = refusal(text)
    assert message.count("\n  - ") == 21
    assert "and 19980 more" in message


def test_recognizes_its_own_format_only() -> None:
    assert packager.recognizes({"docker": {}, "tasks": {}})
    assert packager.recognizes({"process": {}, "tasks": {}})
    assert not packager.recognizes({"docker": {}, "tasks": {}, "container_type": "DockerImage"})
    assert not packager.recognizes({"tasks": {}})
    assert not packager.recognizes({})


def test_files_beside_the_manifest(tmp_path: Path) -> None:
    manifest = tmp_path / "mlcube.yaml"
    found = packager.files(manifest)
    assert (found.manifest, found.parameters, found.additional_files) == (manifest, None, None)
    additional = tmp_path / "workspace" / "additional_files"
    additional.mkdir(parents=True)
    assert packager.files(manifest).additional_files is None
    (additional / "weights").write_text("x")
    (tmp_path / "workspace" / "parameters.yaml").write_text("a: 1")
    found = packager.files(manifest)
    assert (found.parameters, found.additional_files) == (tmp_path / "workspace" / "parameters.yaml", additional)


class TestTemplate:
    def test_the_new_one_is_built_from_its_own_project(self, tmp_path: Path) -> None:
        data = yaml.safe_load((DATA / "mlcube_process.yaml").read_text())
        new = packager.template(data, "My Model, 2nd!")
        assert new["docker"] == {"image": "my-model-2nd:latest", "build_context": "../project"}
        assert new["process"] == data["process"]
        assert new["name"] == "My Model, 2nd!"
        (tmp_path / "mlcube").mkdir()
        (tmp_path / "project").mkdir()
        (tmp_path / "project" / "Dockerfile").write_text("FROM scratch\n")
        (tmp_path / "mlcube" / "mlcube.yaml").write_text(yaml.safe_dump(new))
        spec = packager.read(load_manifest(tmp_path / "mlcube" / "mlcube.yaml"))
        assert str(spec.sources[0]) == f"tree {tmp_path / 'project'}"
        assert check_role(spec, Role.MODEL) == []

    def test_what_the_old_one_had_elsewhere_is_left_out(self) -> None:
        new = packager.template(
            {
                "docker": {"image": "a", "build_context": "../build", "build_file": "D", "build_strategy": "pull"},
                "singularity": {"image": "a.sif"},
                "process": {"project": "src"},
                "tasks": {"infer": {}},
            },
            "m",
        )
        assert new == {
            "docker": {"image": "m:latest"},
            "process": {"project": "../project"},
            "tasks": {"infer": {}},
            "name": "m",
        }

    def test_of_nonsense_is_refused(self) -> None:
        with pytest.raises(InvalidEntityError):
            packager.template({"docker": {"build_context": 3}, "process": "x", "tasks": []}, "m")


words = st.sampled_from(
    [
        "name",
        "tasks",
        "docker",
        "image",
        "infer",
        "parameters",
        "inputs",
        "outputs",
        "data_path",
        "type",
        "default",
        "opts",
        "file",
        "directory",
        "entrypoint",
        "process",
        "project",
        "platform",
        "accelerator_count",
        "singularity",
        "gpu_args",
        "env_args",
        "additional_files/x",
        "../..",
        "parameters.yaml",
        "--gpus",
        "-e A=1 -v",
        "{data_path}",
        "a'",
        "x-",
        "",
        "run_args",
        "build_context",
        "build_file",
        ".",
        "train",
        "\x00",
        "\ud800",
        "/",
        "--shm-size",
    ]
)
nested = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=5), inner, max_size=5),
    max_leaves=30,
)


@settings(deadline=None, max_examples=400)
@given(st.dictionaries(words, nested, max_size=6), st.dictionaries(words, nested, max_size=4), nested, st.booleans())
def test_any_content_is_read_or_refused(
    top: dict[str, Any], docker: dict[str, Any], volumes: Any, well_formed: bool
) -> None:
    data = {**top, "docker": docker, "tasks": {"infer": {"parameters": {"inputs": volumes}}}} if well_formed else top
    try:
        manifest = manifest_from_data(data, "it")
        spec = packager.read(manifest)
    except InvalidEntityError as error:
        assert len(str(error)) < 20_000
    else:
        check_role(spec, Role.MODEL)
        assert all(item.subpath.count("..") == 0 for task in spec.tasks.values() for item in task.volumes)

"""The known faults of the public MedPerf client (S1 to S18: security, B1 to B19: correctness): none exists here.

A fault is held by a test that is named after it, in this file or beside the code, and by those that ``HELD`` lists;
``DOES_NOT_APPLY`` says why there is nothing to hold yet, and names the test that fails once there is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import click
import pytest
from click.testing import CliRunner
from medperf_server import wire

from medperf_core import Site, SiteOptions
from medperf_core.builtin._container_config_packager import ContainerConfigPackager
from medperf_core.builtin._process_runner import ProcessRunner
from medperf_core.cli.root import make_root
from medperf_core.entities import (
    Approval,
    Association,
    Container,
    ImageSource,
    Model,
    SourceKind,
    State,
    TaskSpec,
    TestReport,
    VolumeKind,
)
from medperf_core.entities.codec import from_data, to_json
from medperf_core.entities.spec import CommandStyle
from medperf_core.errors import ExecutionError, InvalidEntityError, MedperfError, PluginError, UsageError
from medperf_core.journeys.compatibility import run_test
from medperf_core.journeys.package import package
from medperf_core.journeys.submit import HostedFiles, submit_container
from medperf_core.plugin import BackendContext, Mount, TaskRequest
from medperf_core.plugin.layout import container_layout
from medperf_core.plugin.manifest import load_manifest
from medperf_core.site.fetch import Origin
from tests.journeys.conftest import Tutorial

from .named_tests import ROOT, all_tests, exists

FAULTS = [f"S{number}" for number in range(1, 19)] + [f"B{number}" for number in range(1, 20)]

HELD: dict[str, tuple[str, ...]] = {
    "S1": (
        "tests/site/test_archive.py::test_s1_hostile_archive_is_refused",
        "tests/journeys/test_model_owner.py::test_an_archive_that_cannot_be_unpacked_safely_is_found_at_submission",
    ),
    "S2": (
        "plugins/docker/tests/test_docker_volumes.py::test_only_outputs_can_be_written",
        "tests/builtin/test_mlcube_packager.py::test_an_input_is_never_writable_whatever_its_opts_say",
    ),
    "S3": (
        "plugins/docker/tests/test_docker_volumes.py::test_s3_a_mount_path_is_never_more_than_a_path",
        "plugins/docker/tests/test_docker_description.py::test_podman_would_read_options_in_paths",
        "tests/builtin/test_container_config_packager.py::test_bad",
    ),
    "S5": (
        "plugins/docker/tests/test_docker_isolation.py::test_s5_process_has_no_privileges",
        "plugins/docker/tests/test_docker_contract.py::test_mounts_the_root_file_system_cannot_be_written",
        "plugins/docker/tests/test_docker_lifecycle.py::test_memory_limit",
        "plugins/docker/tests/test_docker_lifecycle.py::test_process_limit",
    ),
    "S6": (
        "plugins/docker/tests/test_docker_registry.py::test_a_tag_moved_between_verification_and_run_changes_nothing",
        "plugins/docker/tests/test_docker_archive.py::test_names_in_an_archive_move_no_tag",
    ),
    "S7": (
        "tests/site/test_cache.py::test_changed_file_is_dropped",
        "tests/site/test_cache.py::test_s7_changed_tree_is_unpacked_again",
        "tests/journeys/test_compatibility.py::test_kept_outputs_that_were_changed_are_not_reused",
    ),
    "S8": (
        "plugins/docker/tests/test_docker_isolation.py::test_s8_only_loopback_inside",
        "plugins/docker/tests/test_docker_contract.py::test_network_the_host_cannot_be_reached",
    ),
    "S12": (
        "tests/site/test_credentials.py::test_a_file_that_others_can_use_is_not_read",
        "tests/site/test_logs.py::test_stored_credentials_are_known_to_every_log_and_bundle",
        "tests/site/test_logs.py::test_secrets_do_not_reach_the_log_or_the_bundle",
    ),
    "S13": (
        "tests/site/test_logs.py::test_s13_a_bundle_holds_logs_and_nothing_else",
        "tests/site/test_logs.py::test_paths_of_this_machine_are_hidden",
    ),
    "S15": (
        "tests/site/test_credentials.py::test_files_are_private_and_names_do_not_become_paths",
        "tests/site/test_cache.py::test_name_that_is_no_hash_never_becomes_a_path",
        "tests/site/test_records.py::test_s15_a_uid_never_becomes_a_path",
    ),
    "S17": (
        "tests/site/test_fetch.py::test_origin_decides_what_may_be_reached",
        "tests/site/test_fetch.py::test_sizes_are_held",
        "plugins/storage/tests/test_http_addresses.py::test_plain_http_to_others_is_waived_by_name",
        "plugins/storage/tests/test_http_addresses.py::test_this_machine_is_reached_only_if_allowed",
        "plugins/storage/tests/test_http_faults.py::test_stalled_answer_ends",
    ),
    "B8": (
        "tests/cli/test_cli_prompts.py::test_b8_at_a_terminal_enter_is_the_answer_in_capitals",
        "tests/cli/test_cli_prompts.py::test_b8_other_words_are_asked_again",
    ),
    "B9": (
        "tests/cli/test_cli_spellings.py::test_b9_a_name_of_digits_is_no_uid_by_accident",
        "tests/cli/test_cli_spellings.py::test_uids_and_paths_are_told_apart",
    ),
    "B10": (
        "tests/cli/test_cli_journey.py::test_b10_control_c_leaves_no_process_and_no_output",
        "tests/cli/test_cli_failures.py::test_each_error_ends_with_its_own_code_and_one_paragraph",
    ),
    "B11": ("plugins/server/tests/test_store.py::test_b11_lists_are_in_order_and_filtered",),
    "B12": ("tests/journeys/test_compatibility.py::test_b12_a_failing_task_says_its_code_and_last_lines",),
    "B16": (
        "plugins/docker/tests/test_docker_registry.py::test_references_in_parts",
        "plugins/docker/tests/test_docker_registry.py::test_login_of_docker_itself",
        "tests/builtin/test_mlcube_packager.py::test_b16_image_references",
    ),
    "B17": ("plugins/docker/tests/test_docker_archive.py::test_b17_a_missing_archive",),
    "B19": (
        "tests/site/test_profiles.py::test_b19_two_processes_that_change_profiles_lose_nothing",
        "tests/site/test_profiles.py::test_b19_reading_leaves_the_file_byte_for_byte",
        "tests/site/test_cache.py::test_processes_do_each_other_no_harm",
        "tests/site/test_atomic.py::test_failing_writer_leaves_the_old_file",
    ),
}
"""More tests that hold a fault, by what they are about and not all named after it."""

DOES_NOT_APPLY: dict[str, tuple[str, str]] = {
    "S9": (
        "nothing is encrypted here, so there is no passphrase file; encrypted images are refused",
        "tests/builtin/test_container_config_packager.py::test_encrypted_images_are_refused_clearly",
    ),
    "S10": (
        "there are no decryption keys",
        "tests/builtin/test_container_config_packager.py::test_encrypted_images_are_refused_clearly",
    ),
    "S11": (
        "nothing is ever decrypted",
        "tests/builtin/test_container_config_packager.py::test_encrypted_images_are_refused_clearly",
    ),
    "S14": (
        "there is no web interface, and no command that listens",
        "tests/security/test_public_client_faults.py::test_features_that_do_not_exist_have_no_faults",
    ),
    "B2": (
        "no command runs several models in a row; the registry keeps priorities",
        "tests/security/test_public_client_faults.py::test_features_that_do_not_exist_have_no_faults",
    ),
    "B13": (
        "no command runs several models and sums up",
        "tests/security/test_public_client_faults.py::test_features_that_do_not_exist_have_no_faults",
    ),
    "B14": (
        "there is no federated learning and so no training event",
        "tests/security/test_public_client_faults.py::test_features_that_do_not_exist_have_no_faults",
    ),
}
"""Why a fault cannot exist, and the test that fails once that changes."""

ALLOWED = "no-isolation"


def named_after(fault: str) -> list[str]:
    return [test for test in all_tests() if re.search(rf"::test_{fault.lower()}_", test)]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_held_or_does_not_apply(fault: str) -> None:
    held, reason = HELD.get(fault, ()), DOES_NOT_APPLY.get(fault)
    missing = [test for test in (*held, *(reason[1:] if reason else ())) if not exists(test)]
    assert not missing, "a test that is named here does not exist"
    assert named_after(fault) or reason, f"no test is named after {fault}"
    assert not (reason and named_after(fault)), f"{fault} is said not to apply, but there is a test for it"


def test_the_tests_that_hold_them_are_collected() -> None:
    """A test that exists but that pytest does not find holds nothing."""
    named = {test for fault in FAULTS for test in (*HELD.get(fault, ()), *named_after(fault))}
    files = sorted({test.partition("::")[0] for test in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    found = {(line.partition("::")[0], line.partition("[")[0].rpartition("::")[2]) for line in done.stdout.splitlines()}
    assert not {test for test in named if tuple(test.split("::")) not in found}, done.stdout[-2000:] + done.stderr


def commands(group: click.Command, context: click.Context, path: str = "") -> Iterator[tuple[str, click.Command]]:
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from commands(command, click.Context(command, parent=context, info_name=name), f"{path} {name}")
    else:
        yield path.strip(), group


def all_commands() -> dict[str, click.Command]:
    root = make_root()
    return dict(commands(root, click.Context(root, info_name="medperf")))


def test_features_that_do_not_exist_have_no_faults() -> None:
    """Once one of these comes, its entries of ``DOES_NOT_APPLY`` have to become tests."""
    nouns = {path.split()[0] for path in all_commands()}
    assert not nouns & {"web-ui", "web_ui", "training", "aggregator", "ca", "certificate", "run", "execution", "result"}
    assert not {"benchmark run", "dataset prepare"} & set(all_commands())


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def hosted(tutorial: Tutorial) -> HostedFiles:
    with tutorial.site() as site:
        made = package(site, tutorial.model)
        url = {item.name: (made.folder / item.name).as_uri() for item in made.files}
    return HostedFiles(
        mlcube=url["mlcube.yaml"], parameters=url["parameters.yaml"], additional=url["additional_files.tar.gz"]
    )


@pytest.mark.parametrize("name", ["../../../../../escaped", "/escaped/abs", ".."])
def test_s4_names_never_become_paths(tutorial: Tutorial, tmp_path: Path, name: str) -> None:
    manifest = tutorial.model / "mlcube.yaml"
    manifest.write_text(re.sub(r"(?m)^name:.*$", f"name: '{name}'", manifest.read_text()))
    files = hosted(tutorial)
    before = {name for name in files_below(tmp_path) if not name.startswith("home/")}
    with tutorial.site() as site:
        model = submit_container(site, name, files)
        assert isinstance(model, Model) and model.container is not None and model.name == name
        report = run_test(site, benchmark=1, model=str(model.container.id), fresh=True)
        assert report.results
        inside = files_below(site.home.path)
    after = {name for name in files_below(tmp_path) if not name.startswith("home/")}
    assert {name for name in after - before if "medperf_tutorial/server" not in name and ".db" not in name} == set()
    assert not [place for place in inside if "escaped" in place]
    assert not Path("/escaped").exists()


def test_s12_what_is_kept_is_private(tutorial: Tutorial) -> None:
    with tutorial.site() as site:
        submit_container(site, "private", hosted(tutorial))
        run_test(site, benchmark=1, model=str(tutorial.model))
        home = site.home
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    for folder in home.path.iterdir():
        assert not folder.is_dir() or stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    kept = (home.credentials_dir, home.audit_dir, home.records_dir, home.outbox_dir)
    files = [home.config_file, *(path for folder in kept for path in folder.rglob("*") if path.is_file())]
    assert len(files) > 4
    assert not [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]


def process_request(tmp_path: Path, code: str, **variables: str) -> TaskRequest:
    task = TaskSpec(
        name="infer",
        volumes=(),
        style=CommandStyle.MLCUBE,
        environment=variables,
        process_command=(sys.executable, "-c", code),
    )
    return TaskRequest(task=task, mounts=(), log=tmp_path / "task.log")


@pytest.fixture
def tree(tmp_path: Path) -> ImageSource:
    project = tmp_path / "project"
    project.mkdir()
    (project / "main.py").write_text("print('hello')\n")
    return ImageSource(SourceKind.TREE, str(project))


def test_s16_a_task_s_variables_reach_neither_the_client_nor_the_next_task(
    context: BackendContext, tree: ImageSource, tmp_path: Path
) -> None:
    before = dict(os.environ)
    runner = ProcessRunner(context)
    image = runner.prepare(tree)
    code = "import os; print(os.environ.get('SECRET_OF_ONE'), os.environ.get('SINGULARITYENV_SECRET_OF_ONE'))"
    first = runner.run(image, process_request(tmp_path, code, SECRET_OF_ONE="hush"))
    second = runner.run(image, process_request(tmp_path, code))
    assert (first.tail, second.tail) == (("hush None",), ("None None",))
    assert dict(os.environ) == before


def test_s17_only_schemes_with_a_store_are_followed(tmp_path: Path) -> None:
    with Site.open(tmp_path / "home") as site:
        for address in ("ftp://host.example/file", "gopher://host/x", "data:text/plain,x", "javascript:x"):
            for origin in Origin:
                with pytest.raises(PluginError, match="http"):
                    site.fetch(address, origin=origin)


MANIFEST = """
container_type: DockerImage
image: example/evaluator:1
tasks:
  evaluate:
    run_args:
      command: score --all
      entrypoint: /opt/run
      environment: {MODE: fast}
      shm_size: 2g
      gpus: 1
    input_volumes:
      predictions: {mount_path: /mlcommons/volumes/predictions, type: directory}
      labels: {mount_path: /mlcommons/volumes/labels, type: directory}
    output_volumes:
      output_path: {mount_path: /mlcommons/volumes/results/results.yaml, type: file}
"""


def test_b1_the_second_run_of_an_evaluator_is_like_the_first(tmp_path: Path) -> None:
    path = tmp_path / "container_config.yaml"
    path.write_text(MANIFEST)
    manifest = load_manifest(path)
    before = to_json(manifest.data)
    packager = ContainerConfigPackager()
    task = packager.read(manifest).task("evaluate")
    mounts = tuple(
        Mount(volume.label, tmp_path / volume.label, VolumeKind(volume.kind), volume.writable)
        for volume in task.volumes
    )
    first = container_layout(task, mounts)
    assert first == container_layout(task, mounts)
    assert (first.entrypoint, first.command) == (("/opt/run",), ("score", "--all"))
    again = packager.read(manifest).task("evaluate")
    assert again == task and (again.environment, again.shm_size, again.gpus) == ({"MODE": "fast"}, "2g", "1")
    assert to_json(manifest.data) == before


def test_b1_two_models_are_scored_with_the_same_evaluator(tutorial: Tutorial) -> None:
    other = tutorial.folder / "model_other"
    shutil.copytree(tutorial.folder / "model_mlp", other)
    main = other / "project" / "main.py"
    main.write_text(main.read_text() + "\n# another model\n")
    (other / "container_config.yaml").unlink(missing_ok=True)
    options = SiteOptions(platform="process", allow=(ALLOWED,))
    with tutorial.site(options=options) as site:
        reports = [
            run_test(site, benchmark=1, model=str(path), fresh=True) for path in (tutorial.model, other / "mlcube")
        ]
    first, second = (next(step for step in report.steps if step.task == "evaluate") for report in reports)
    assert (first.images, first.parameters, first.limits) == (second.images, second.parameters, second.limits)
    assert reports[0].results == reports[1].results


@pytest.mark.parametrize("word", ["NaN", "contains -Infinity and \u2028 NaN"])
def test_b4_words_that_look_like_numbers_are_sent_as_they_are(tutorial: Tutorial, word: str) -> None:
    thing = Container(
        name="words",
        container_config={"tasks": {"evaluate": {}}, "note": word},
        image_hash="sha256:" + "0" * 64,
        metadata={"note": word, word: [word]},
        state=State.DEVELOPMENT,
    )
    with tutorial.site() as site:
        made = site.gate.create(thing)
        found = site.server.get(Container, made.id or 0)
        assert found.container_config["note"] == word
        assert found.metadata["note"] == word and found.metadata[word] == [word]
        assert not site.outbox.list()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_b4_numbers_that_json_cannot_carry_are_refused_and_never_rewritten(number: float) -> None:
    with pytest.raises(InvalidEntityError, match="cannot carry"):
        Container(name="numbers", container_config={"x": number}, image_hash="", metadata={})
    with pytest.raises(InvalidEntityError):
        wire.changes_body(Container, {"metadata": {"x": number}})
    for text in (b"NaN", b"Infinity"):
        with pytest.raises(MedperfError, match="no "):
            wire.read_changes(b'{"metadata": ' + text + b"}")


def test_b5_no_command_has_two_meanings_for_one_option() -> None:
    for path, command in all_commands().items():
        options = [
            option
            for param in command.params
            if isinstance(param, click.Option)
            for option in (*param.opts, *param.secondary_opts)
        ]
        assert len(set(options)) == len(options), f"medperf {path}"


def test_b5_every_list_is_printed(tutorial: Tutorial) -> None:
    with tutorial.site() as site:
        run_test(site, benchmark=1, model=str(tutorial.model))
    lists = [path for path in all_commands() if path.split()[-1] == "ls"]
    assert len(lists) >= 8
    for path in lists:
        for more in ([], ["--mine"]) if any("--mine" in param.opts for param in all_commands()[path].params) else ([],):
            environment = {
                "MEDPERF_HOME": str(tutorial.home),
                "MEDPERF_PROFILE": tutorial.site().__enter__().profile_name,
            }
            done = CliRunner(env=environment).invoke(make_root(), [*path.split(), *more])
            assert done.exit_code == 0, f"medperf {path} {more}: {done.output}"


def test_b6_a_program_that_is_not_there_is_told_in_words(
    context: BackendContext, tree: ImageSource, tmp_path: Path
) -> None:
    runner = ProcessRunner(context)
    asked = process_request(tmp_path, "")
    asked = attrs.evolve(asked, task=attrs.evolve(asked.task, process_command=("no-such-program-anywhere", "x")))
    with pytest.raises(ExecutionError, match="no-such-program-anywhere"):
        runner.run(runner.prepare(tree), asked)


def test_b15_only_fields_and_words_that_the_server_knows_are_sent() -> None:
    thing = Association(benchmark=1, model=2, approval_status=Approval.PENDING, metadata={"x": 1})
    assert set(json.loads(wire.new_body(thing))) <= set(attrs.fields_dict(Association))
    with pytest.raises(UsageError, match="script_report"):
        wire.changes_body(Container, {"script_report": "done"})
    with pytest.raises(InvalidEntityError):
        from_data({"benchmark": 1, "model": 2, "approval_status": "script_report"}, Association)
    assert "script_report" not in attrs.fields_dict(TestReport)

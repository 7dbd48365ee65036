"""Words as people type them: both spellings, options before and after the command, UIDs and paths."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from medperf_core.cli.params import UID, UID_OR_PATH, dashes, run_options
from medperf_core.cli.root import make_root
from medperf_core.cli.session import Session, pass_session

from .conftest import Medperf


@pytest.fixture
def seen() -> list[Session]:
    return []


@pytest.fixture
def probe(seen: list[Session]) -> click.Group:
    """The real root with one more command, which keeps the session that it got."""
    root = make_root()

    @root.command("probe")
    @click.option("--model-uid", type=UID)
    @click.option("--what", type=UID_OR_PATH)
    @run_options
    @pass_session
    def command(session: Session, /, model_uid: int | None, what: str | None) -> None:
        seen.append(session)
        click.echo(f"{model_uid} {what}")

    return root


@pytest.mark.parametrize("spelling", [["--model_uid", "4"], ["--model-uid", "4"], ["--model_uid=4"], ["--model-uid=4"]])
def test_options_take_both_spellings(probe: click.Group, spelling: list[str]) -> None:
    assert CliRunner().invoke(probe, ["probe", *spelling]).stdout == "4 None\n"


def test_every_option_of_several_words_is_declared_with_dashes() -> None:
    def walk(command: click.Command) -> None:
        for param in command.params:
            if isinstance(param, click.Option):
                assert all(option == dashes(option) for option in (*param.opts, *param.secondary_opts))
        if isinstance(command, click.Group):
            ctx = click.Context(command)
            for name in command.list_commands(ctx):
                child = command.get_command(ctx, name)
                assert child is not None and name == dashes(name)
                walk(child)

    walk(make_root())


def test_the_spellings_that_users_know_are_taken(medperf: Medperf) -> None:
    """Each line is refused for its last word only, so everything before it was understood."""
    lines = [
        "mlcube associate --benchmark 1 --model_uid 4 -y --no-cache",
        "mlcube submit --name a --mlcube-file b --parameters-file c --additional-file d --image-file e --mlcube-hash f "
        "--parameters_hash g --additional_hash h --image_hash i --development --yes",
        "test run -b 1 -p 2 -m 3 -e 4 --demo_dataset_url u --demo_dataset_hash h --offline --no-cache",
        "test run --data_preparation 1 --model 2 --evaluator 3",
        "association approve --benchmark 1 --mlcube 4 -y",
        "association reject -b 1 --dataset 4",
        "association ls PENDING",
        "auth login --email a@b.org",
        "mlcube package --mlcube p --mlcube-types model --output o",
        "container run --task infer --container 3 --input data_path=x --output y",
        "profile set --shm-size 2g --infer_timeout 60",
    ]
    for line in lines:
        done = medperf(*line.split(), "--no-such-option")
        assert done.exit_code == 2
        assert "No such option" in done.stderr and "--no-such-option" in done.stderr, line


def test_allow_and_offline_stand_before_or_after_the_command(probe: click.Group, seen: list[Session]) -> None:
    CliRunner().invoke(probe, ["--allow", "a", "probe", "--allow", "b", "--offline"])
    CliRunner().invoke(probe, ["--offline", "probe"])
    CliRunner().invoke(probe, ["probe"])
    assert [session.allow for session in seen] == [["a", "b"], [], []]
    assert [session.options.get("offline") for session in seen] == [True, True, None]


def test_global_options_reach_the_session(probe: click.Group, seen: list[Session], tmp_path: Path) -> None:
    words = [
        "--home",
        str(tmp_path),
        "--profile",
        "p",
        "--platform",
        "docker",
        "--executor",
        "local",
        "--gpus",
        "all",
        "--shm_size",
        "2g",
        "--memory",
        "4g",
        "--cpus",
        "1.5",
        "--time-limit",
        "60",
        "--time-limit",
        "infer=7200",
        "--evaluate_timeout",
        "30",
        "--infer_timeout",
        "1",
        "--quiet",
        "--debug",
    ]
    done = CliRunner().invoke(probe, [*words, "probe"])
    assert done.exit_code == 0, done.output
    session = seen[0]
    assert (session.home, session.profile, session.quiet, session.debug) == (tmp_path, "p", True, True)
    assert session.options == {
        "platform": "docker",
        "executor": "local",
        "gpus": "all",
        "shm_size": "2g",
        "memory": "4g",
        "cpus": 1.5,
        "time_limits": {"*": 60.0, "infer": 7200.0, "evaluate": 30.0},
    }


@pytest.mark.parametrize("text", ["soon", "-1", "0", "infer=", "=5", "infer=inf", "nan"])
def test_a_time_limit_is_a_number_of_seconds(probe: click.Group, text: str) -> None:
    done = CliRunner().invoke(probe, ["--time-limit", text, "probe"])
    assert done.exit_code == 2
    assert "infer=3600" in done.stderr


def test_a_time_limit_of_an_unknown_task_is_refused(medperf: Medperf) -> None:
    for words in (["test", "ls"], ["container", "run", "--task", "infer", "--container", "1", "--output", "o"]):
        done = medperf("--time-limit", "inferr=60", *words)
        assert done.exit_code == 2
        assert "'inferr'" in done.stderr and "prepare, sanity_check, statistics, infer, evaluate" in done.stderr
    assert medperf("--time-limit", "infer=60", "--time-limit", "60", "test", "ls").exit_code == 0
    words = ["container", "run", "--task", "train", "--container", "1", "--output", "o"]
    done = medperf("--time-limit", "train=60", *words)
    assert "names no server" in done.stderr  # the limit was taken


def test_what_is_neither_file_nor_folder_is_called_so(medperf: Medperf) -> None:
    for words in (["mlcube", "package"], ["mlcube", "package", "--mlcube"], ["test", "run", "--model"]):
        done = medperf(*words, "/dev/null")
        assert done.exit_code == 2
        assert "/dev/null is neither a file nor a folder" in done.stderr
    assert medperf("test", "run", "--model", "x" * 300).exit_code == 2


def test_an_input_that_is_given_twice_is_refused(medperf: Medperf) -> None:
    words = ["--input", "data_path=a", "--input", "labels_path=a", "--input", "data_path=b"]
    done = medperf("container", "run", "--task", "infer", "--container", "1", "--output", "o", *words)
    assert done.exit_code == 2
    assert "--input data_path= is given twice" in done.stderr


def test_a_global_option_after_the_command_is_told_where_it_goes(medperf: Medperf) -> None:
    done = medperf("test", "run", "--platform", "docker")
    assert done.exit_code == 2
    assert "--platform goes before the command: medperf --platform ... test run ..." in done.stderr


@pytest.mark.parametrize("word", ["my-model", "0", "-4", "4.0", "٤", "1e3"])
def test_a_word_that_is_no_number_is_no_uid(probe: click.Group, word: str) -> None:
    done = CliRunner().invoke(probe, ["probe", f"--model-uid={word}"])
    assert done.exit_code == 2
    assert "is not a server UID" in done.stderr


def test_uids_and_paths_are_told_apart(probe: click.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert CliRunner().invoke(probe, ["probe", "--what", "4"]).stdout == "None 4\n"
    assert CliRunner().invoke(probe, ["probe", "--what", "model"]).stdout == "None model\n"
    missing = CliRunner().invoke(probe, ["probe", "--what", "some/where"])
    assert missing.exit_code == 2 and "There is no file or folder 'some/where'" in missing.stderr
    neither = CliRunner().invoke(probe, ["probe", "--what", "modle"])
    assert neither.exit_code == 2 and "neither a server UID" in neither.stderr


def test_b9_a_name_of_digits_is_no_uid_by_accident(
    probe: click.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "4").mkdir()
    either = CliRunner().invoke(probe, ["probe", "--what", "4"])
    assert either.exit_code == 2
    assert "write ./4" in either.stderr
    assert CliRunner().invoke(probe, ["probe", "--what", "./4"]).stdout == "None ./4\n"

"""How command lines end: messages, exit codes, tracebacks in the log, signals, closed pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from medperf_core import errors
from medperf_core.errors import MedperfError
from medperf_core.site.credentials import CredentialStore
from medperf_core.site.home import Home

from .conftest import Medperf, Process

ALL_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MedperfError)]


PROGRAM = """
import os, signal, sys, time
from medperf_core import errors
from medperf_core.cli.root import make_root
from medperf_core.cli.session import pass_session

signal.signal(signal.SIGINT, signal.default_int_handler)
root = make_root()

@root.command("probe")
@pass_session
def probe(session):
{body}

{before}
root.main({words})
"""


def program(body: str, environment: Mapping[str, str], *words: str, before: str = "") -> subprocess.Popen[str]:
    """A command line whose command ``probe`` has this body."""
    body = textwrap.indent(textwrap.dedent(body), "    ")
    code = PROGRAM.format(body=body, before=before, words=[*words, "probe"])
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(started: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = started.communicate(timeout=60)
    return started.returncode, out, err


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_each_error_ends_with_its_own_code_and_one_paragraph(
    kind: type[MedperfError], environment: dict[str, str], home: Path
) -> None:
    code, out, err = ended(program(f"raise errors.{kind.__name__}('It broke.', hint='Mend it.')", environment))
    assert code == kind.exit_code
    assert (out, err.rstrip().rpartition(": ")[2]) == ("", "It broke. Mend it.")
    assert "Traceback" not in err
    [log] = (home / "logs").glob("*.log")
    assert "Traceback" in log.read_text()


def test_exit_codes_are_not_shared_by_different_errors() -> None:
    codes = [kind.exit_code for kind in ALL_ERRORS if "exit_code" in vars(kind)]  # else it is a case of another one
    assert len(set(codes)) == len(codes)
    assert not {0, 70, 141, 143} & set(codes)


def test_problems_are_listed(environment: dict[str, str]) -> None:
    code, _, err = ended(program("raise errors.InvalidEntityError('Bad:', problems=['one', 'two'])", environment))
    assert code == 6
    assert err == "Error: Bad:\n  - one\n  - two\n"


def test_a_message_cannot_play_with_the_terminal(environment: dict[str, str]) -> None:
    _, _, err = ended(program(r"raise errors.ServerError('said \x1b[2J\u202e')", environment))
    assert err == "Error: said \\u001b[2J\\u202e\n"


def test_an_unexpected_error_names_the_log_and_has_its_traceback_there_only(
    environment: dict[str, str], home: Path
) -> None:
    code, out, err = ended(program("{}['key']", environment))
    assert (code, out) == (70, "")
    [log] = (home / "logs").glob("*.log")
    assert str(log) in err and "--debug" in err and "KeyError" in err
    assert "Traceback" not in err and len(err.splitlines()) == 1
    assert "Traceback" in log.read_text() and "KeyError: 'key'" in log.read_text()


def test_debug_shows_the_traceback(environment: dict[str, str]) -> None:
    code, _, err = ended(program("raise errors.ServerError('no')", environment, "--debug"))
    assert code == 9
    assert "Traceback" in err and err.endswith("Error: no\n")


@pytest.mark.parametrize("words", [(), ("--debug",)])
@pytest.mark.parametrize("kind", ["errors.ServerError", "KeyError"])
def test_a_stored_secret_is_in_no_error_and_no_traceback(
    environment: dict[str, str], home: Path, kind: str, words: tuple[str, ...]
) -> None:
    secret = "correct-horse-battery"
    CredentialStore(Home.open(home)).put("server", {"token": secret, "username": "jane"})
    body = f"""
    with session.opened() as site:
        token = site.credentials.get("server")["token"]
        raise {kind}(f"jane sent {{token}} and \x1b[2J; set credentials=file")
    """
    code, out, err = ended(program(body, environment, *words))
    assert code in (9, 70) and out == ""
    assert secret not in err and "\x1b" not in err
    assert "jane sent [redacted]" in err and "credentials=file" in err.splitlines()[-1]
    assert ("Traceback" in err) == bool(words)
    [log] = (home / "logs").glob("*.log")
    assert secret not in log.read_text() and "jane sent [redacted]" in log.read_text()


def test_an_unexpected_error_is_told_even_where_no_log_can_be_written(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    code, _, err = ended(program("1 / 0", {**environment, "MEDPERF_HOME": str(tmp_path / "file" / "home")}))
    assert code == 70
    assert "ZeroDivisionError" in err and "Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_unwinds_the_work_and_sets_the_cancel_token(
    number: int, code: int, environment: dict[str, str]
) -> None:
    body = """
    with session.opened() as site:
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("cancelled", site.cancel.cancelled, flush=True)
    """
    started = program(body, environment)
    assert started.stdout is not None and started.stdout.readline() == "ready\n"
    started.send_signal(number)
    assert ended(started)[:2] == (code, "cancelled True\n")


def test_a_second_signal_lets_the_cleaning_up_go_on_and_a_third_one_does_not(environment: dict[str, str]) -> None:
    body = """
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep({seconds})
        print("clean", flush=True)
    """
    for signals, seconds, clean in ((1, 1, True), (2, 60, False)):
        started = program(body.format(seconds=seconds), environment)
        assert started.stdout is not None and started.stderr is not None
        assert started.stdout.readline() == "ready\n"
        started.send_signal(signal.SIGINT)
        assert started.stdout.readline() == "cleaning\n"
        started.send_signal(signal.SIGINT)
        assert "once more" in started.stderr.readline()
        if signals == 2:
            started.send_signal(signal.SIGINT)
        code, out, _ = ended(started)
        assert (code, "clean" in out) == (130, clean)


def test_a_signal_that_was_ignored_before_stays_ignored(environment: dict[str, str]) -> None:
    code, out, _ = ended(
        program(
            "os.kill(os.getpid(), signal.SIGHUP)\nprint('went on')",
            environment,
            before="signal.signal(signal.SIGHUP, signal.SIG_IGN)",
        )
    )
    assert (code, out) == (0, "went on\n")


def test_cancelled_work_is_no_error_of_the_program(environment: dict[str, str]) -> None:
    code, _, err = ended(program("raise errors.CancelledError('The work was interrupted.')", environment))
    assert (code, err) == (130, "Stopped: The work was interrupted.\n")


def test_a_closed_pipe_is_quiet(environment: dict[str, str]) -> None:
    read, write = os.pipe()
    started = subprocess.Popen(
        [sys.executable, "-m", "medperf_core.cli", "completion", "bash"],
        env=environment,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    os.close(read)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 141
    assert "Error" not in err and "Traceback" not in err


def test_a_broken_connection_is_not_taken_for_a_closed_pipe(environment: dict[str, str]) -> None:
    code, _, err = ended(program("raise BrokenPipeError(32, 'Broken pipe')", environment))
    assert code == 70
    assert "BrokenPipeError" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mlcub"], "There is no command 'mlcub'. Did you mean mlcube?"),
        (["mlcube", "submt"], "submit"),
        (["--slurm_partition=x", "doctor"], "pip install medperf-slurm"),
        (["--no-such", "doctor"], "No such option"),
        (["mlcube", "submit", "--nam", "x"], "--name"),
        (["mlcube", "submit"], "Missing option"),
        (["mlcube", "package"], "medperf mlcube package PATH"),
        (["association", "approve", "--benchmark", "1"], "--mlcube, --model and --dataset"),
        (["--allow", "everything", "doctor"], "Known names"),
    ],
)
def test_wrong_words_end_with_2_and_say_what_is_known(medperf: Medperf, words: list[str], said: str) -> None:
    done = medperf(*words)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert done.stdout == ""


def test_a_command_of_ours_that_is_not_installed_says_what_to_install(medperf: Medperf) -> None:
    done = medperf("tutorial", "start", "model", MEDPERF_BLOCK_PLUGINS="medperf-examples")
    assert done.exit_code == 2
    assert "pip install medperf-examples" in done.stderr


def test_without_words_there_is_help(process: Process) -> None:
    done = process()
    assert "Commands:" in done.stdout + done.stderr

"""Questions: on a real pseudo-terminal, from a pipe, and with nobody there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping

import pytest

from .terminal import Terminal

ASK = "from medperf_core.cli.prompts import ask_yes_no; print('ANSWER', ask_yes_no('Send it?', default=%s))"
ASK_TEXT = "from medperf_core.cli.prompts import ask_text; print('ANSWER', ask_text(%s))"
RUN = """
import click
from medperf_core.cli.root import make_root
from medperf_core.cli.approver import AskingApprover
from medperf_core.cli.progress import display
from medperf_core.site.approver import ask

root = make_root()

@root.command("probe")
def probe():
    print("ANSWER", ask(AskingApprover(display(quiet=False)), "create model", "embedded:/srv", b'{"name":"my-model"}'))

root.main(["probe"])
"""


def at_terminal(code: str, environment: Mapping[str, str]) -> Terminal:
    return Terminal([sys.executable, "-c", code], environment)


@pytest.mark.parametrize(
    ("default", "typed", "answer"),
    [
        (False, "\n", False),
        (True, "\n", True),
        (False, "y\n", True),
        (False, "YES\n", True),
        (True, "n\n", False),
        (True, "no\n", False),
    ],
)
def test_b8_at_a_terminal_enter_is_the_answer_in_capitals(
    environment: dict[str, str], default: bool, typed: str, answer: bool
) -> None:
    terminal = at_terminal(ASK % default, environment)
    terminal.wait_for("Send it? [Y/n] " if default else "Send it? [y/N] ")
    terminal.type(typed)
    assert terminal.end() == 0
    assert f"ANSWER {answer}" in terminal.seen


def test_b8_other_words_are_asked_again(environment: dict[str, str]) -> None:
    terminal = at_terminal(ASK % False, environment)
    terminal.wait_for("[y/N] ")
    for word in ("yn", "yess", "1"):
        terminal.type(word + "\n")
        terminal.wait_for("Please answer y or n.")
        terminal.wait_for("[y/N] ")
    terminal.type("y\n")
    assert terminal.end() == 0
    assert "ANSWER True" in terminal.seen


@pytest.mark.parametrize(("typed", "code"), [("\x04", 130), ("\x03", 130)])
def test_the_end_of_input_and_control_c_send_nothing(environment: dict[str, str], typed: str, code: int) -> None:
    terminal = at_terminal(RUN, environment)
    terminal.wait_for("Send this to embedded:/srv? [y/N] ")
    assert '{"name":"my-model"}' in terminal.seen
    terminal.type(typed)
    assert terminal.end() == code
    assert "ANSWER" not in terminal.seen
    assert "Traceback" not in terminal.seen
    assert ("Nothing was sent." if typed == "\x03" else "nothing was done") in terminal.seen


def test_a_termination_ends_with_its_own_code(environment: dict[str, str]) -> None:
    terminal = at_terminal(RUN, environment)
    terminal.wait_for("[y/N] ")
    os.kill(terminal.process.pid, signal.SIGTERM)
    assert terminal.end() == 143
    assert "SIGTERM asked for it" in terminal.seen


def piped(code: str, environment: Mapping[str, str], given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        input=given,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("given", "answer"), [("y\n", True), ("no\n", False), ("\n", False), ("what\nyes\n", True)])
def test_an_answer_is_read_from_a_pipe(environment: dict[str, str], given: str, answer: bool) -> None:
    done = piped(ASK % False, environment, given)
    assert done.stdout == f"ANSWER {answer}\n"
    assert "Send it? [y/N]" in done.stderr


def test_with_nobody_there_the_answer_is_no_and_yes_is_explained(environment: dict[str, str]) -> None:
    done = piped(RUN, environment, "")
    assert done.stdout == "ANSWER Answer(yes=False, how='nobody')\n"
    assert "--yes" in done.stderr


def test_a_text_is_chosen_by_word_or_number(environment: dict[str, str]) -> None:
    choices = "'Who?', False, ('alice', 'bob')"
    assert piped(ASK_TEXT % choices, environment, "2\n").stdout == "ANSWER bob\n"
    assert piped(ASK_TEXT % choices, environment, "carol\nalice\n").stdout == "ANSWER alice\n"


def test_with_nobody_there_a_text_is_asked_for_on_the_command_line(environment: dict[str, str]) -> None:
    code = f"""
from medperf_core.errors import UsageError
try:
    {ASK_TEXT.partition("; ")[0]}
    ask_text("Who are you?", advice="Write: login --user NAME")
except UsageError as error:
    print(error)
"""
    done = piped(code, environment, "")
    assert done.stdout == "There is no terminal to ask at: Who are you? Write: login --user NAME\n"


def test_a_secret_is_not_shown_as_it_is_typed(environment: dict[str, str]) -> None:
    terminal = at_terminal(ASK_TEXT % "'Password', True", environment)
    terminal.wait_for("Password: ")
    terminal.type("hunter2 \n")
    assert terminal.end() == 0
    assert terminal.seen.count("hunter2") == 1
    assert "ANSWER hunter2 " in terminal.seen

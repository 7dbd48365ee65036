"""The page of errors lists every class with its code, every other code, and examples that happen as written."""

from __future__ import annotations

import inspect
import re
import signal
import subprocess
from pathlib import Path

from medperf_core import errors
from medperf_core.cli.failures import INTERNAL_ERROR
from medperf_core.errors import MedperfError

from .pages import DOCS, Console, rows, session

PAGE = DOCS / "reference" / "errors.md"
CLASSES = {
    name: kind.exit_code
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, MedperfError) and kind.__module__ == errors.__name__
}


def test_every_class_is_listed_with_its_code_when_and_what_to_do() -> None:
    table = rows(PAGE, "class")
    assert {row[0]: int(row[1]) for row in table} == CLASSES
    assert len(table) == len(CLASSES) and all(row[2] and row[3] for row in table)


def test_the_codes_that_no_class_has_are_those_of_the_command_line() -> None:
    signals = {128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)}
    assert {int(row[0]) for row in rows(PAGE, "code")} == {0, 1, 2, INTERNAL_ERROR} | signals


def test_the_examples_happen_as_written_and_leave_no_code_out(tmp_path: Path) -> None:
    shown = {
        int(code) for typed in session(PAGE) for code in typed.expected if "echo $?" in typed.command and code.isdigit()
    }
    assert shown | {1, 17} == set(CLASSES.values())
    Console(tmp_path / "work").follow(PAGE)


def test_an_interrupted_command_ends_with_the_documented_code(tmp_path: Path) -> None:
    console = Console(tmp_path / "work")
    assert console.run("medperf tutorial start model")[0] == 0
    console.run("echo 'import time; time.sleep(60)' > medperf_tutorial/model_mlp/project/main.py")
    words = "exec medperf test run --benchmark 1 --model medperf_tutorial/MODEL/mlcube --allow no-isolation"
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        with subprocess.Popen(
            ["bash", "-c", words],
            cwd=console.folder,
            env=console.variables,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if re.match("infer of .* \\.\\.\\.", line):
                    break
            process.send_signal(number)
            process.stderr.read()
        assert process.returncode == code

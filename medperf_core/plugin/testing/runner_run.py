"""Tests of ``run``: the command, its environment, its output, and what is reported of it."""

from __future__ import annotations

import signal
import threading
from datetime import datetime, timedelta

import attrs
import pytest

from medperf_core.entities.codec import from_data, to_data
from medperf_core.entities.image import SourceKind
from medperf_core.entities.spec import CommandStyle
from medperf_core.plugin import TaskOutcome
from medperf_core.plugin.runner import TAIL_LINES
from medperf_core.plugin.tasklog import LOG_LIMIT
from medperf_core.plugin.testing.probe_image import VARIABLE
from medperf_core.plugin.testing.runner_kit import RunnerKit, Volume

ODD = ("a b", "", "$HOME", "$(id)", "`id`", "'", '"', "\\", "*", "ä ü", "a,b", "{nothing}", "a\nb", "-x", " ;true")
HOSTILE = {
    "PROBE_BLANKS": "  a  b ",
    "PROBE_EMPTY": "",
    "PROBE_SHELL": "$(id) `id` $HOME; true & ' \" \\",
    "PROBE_COMMA": "a,b=c,--bind=/:/host",
    "PROBE_LINES": "first\nPROBE_FORGED=1\n",
    "PROBE_LETTERS": "é ü 日本",
    "PROBE_HOLDER": "{out}",
}
SECRET = "hush-this-is-secret"


class RunTests:
    """See the module."""

    @pytest.mark.parametrize("code", [0, 7])
    def test_exit_codes_are_told(self, kit: RunnerKit, code: int) -> None:
        """A task that fails is an outcome, not an error."""
        outcome = kit.run("leave", str(code)).outcome
        assert outcome.exit_code == code
        assert not (outcome.timed_out or outcome.out_of_memory or outcome.too_many_processes)

    @pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGTERM])
    def test_a_signal_is_told_as_the_shell_tells_it(self, kit: RunnerKit, number: signal.Signals) -> None:
        """128 and the signal's number."""
        assert kit.run("die", str(number.value)).outcome.exit_code == 128 + number

    def test_arguments_are_literal(self, kit: RunnerKit) -> None:
        """No shell reads them, and nothing is added to them or lost."""
        assert tuple(kit.report("facts", *ODD)["argv"][-len(ODD) :]) == ODD

    def test_the_image_s_own_command(self, kit: RunnerKit) -> None:
        """Is what runs where the manifest says nothing else."""
        self._needs_an_image(kit, "an image's own command")
        request = kit.request("own")
        request = attrs.evolve(request, task=attrs.evolve(request.task, command=()))
        outcome = kit.runner().run(kit.prepared, request)
        assert outcome.tail == ("the image's own command",)

    def test_a_task_in_the_mlcube_style(self, kit: RunnerKit) -> None:
        """The image's entrypoint gets the task's name and the volumes."""
        source = kit.file("in/file", "read me").parent
        report = kit.report("facts", volumes=[Volume("data_path", source)], style=CommandStyle.MLCUBE)
        assert "facts" in report["argv"]
        assert any(word.startswith("--data_path=") for word in report["argv"])

    def test_it_starts_in_the_image_s_working_folder(self, kit: RunnerKit) -> None:
        """Of a source tree, its top folder."""
        assert "probe.py" in kit.usual("facts").report["here"]

    def test_variables_are_literal(self, kit: RunnerKit) -> None:
        """The manifest's and the core's; the core's win."""
        wanted = {**HOSTILE, "PROBE_BOTH": "core"}
        report = kit.report("facts", variables={"PROBE_BOTH": "manifest", "PROBE_OURS": "1"}, environment=wanted)
        seen = {name: value for name, value in report["environment"].items() if name.startswith("PROBE_")}
        seen.pop(VARIABLE[0], None)
        assert seen == {**wanted, "PROBE_OURS": "1"}

    def test_the_image_s_variables_are_set(self, kit: RunnerKit) -> None:
        """Of a source tree there are none."""
        self._needs_an_image(kit, "an image's own variables")
        assert kit.usual("facts").report["environment"].get(VARIABLE[0]) == VARIABLE[1]

    def test_nothing_of_the_host_s_environment_is_seen(self, kit: RunnerKit, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever it is: also what names a proxy or looks harmless."""
        for name in ("HOST_ONLY", "HTTP_PROXY", "https_proxy", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"):
            monkeypatch.setenv(name, f"http://user:{SECRET}@127.0.0.1:9")
        seen = kit.report("facts")["environment"]
        assert not [name for name, value in seen.items() if SECRET in value]

    def test_there_is_no_standard_input(self, kit: RunnerKit) -> None:
        """A program that asks gets an end, not a terminal."""
        assert kit.usual("facts").report["input"] == "ended"

    def test_all_output_is_in_the_log_file(self, kit: RunnerKit) -> None:
        """Of both streams, each in its order, byte for byte."""
        ran = kit.usual("talk")
        data = ran.log.read_bytes()
        for first in (0, 1):
            places = [data.index(f"<{number}>\n".encode()) for number in range(first, 60, 2)]
            assert places == sorted(places)
        assert b"\x1b[31mcolour\xff\x07\n" in data
        assert b"no end" in data
        assert ran.outcome.log_bytes == len(data)
        assert not ran.outcome.log_truncated

    def test_output_is_told_line_by_line(self, kit: RunnerKit) -> None:
        """As events of the task, without control characters; the outcome has the last of them."""
        ran = kit.usual("talk")
        lines = [event.line for event in ran.told]
        assert [number for number in range(60) if f"<{number}>" not in "\n".join(lines)] == []
        assert [line for line in lines if not line.isprintable()] == []
        assert {event.task for event in ran.told} == {"talk"}
        assert ran.outcome.tail == tuple(lines[-TAIL_LINES:])

    def test_a_flood_of_output_is_cut(self, kit: RunnerKit) -> None:
        """The log file stays within its bound, and the outcome says so; the task goes on to its end."""
        ran = kit.run("flood", str(LOG_LIMIT + (4 << 20)))
        assert ran.outcome.exit_code == 0
        assert ran.log.stat().st_size <= LOG_LIMIT
        assert ran.outcome.log_truncated
        assert ran.outcome.log_bytes > LOG_LIMIT
        assert ran.outcome.tail[-1] == "the end"

    def test_what_is_reported_of_a_task(self, kit: RunnerKit) -> None:
        """Engine, images, times, waivers."""
        outcome = kit.run("leave", "0", waivers=("no-cpu-limit",)).outcome
        assert outcome.engine == kit.capabilities.engine
        assert set(outcome.images) == set(kit.prepared.identities)
        assert datetime.fromisoformat(outcome.started).utcoffset() == timedelta(0)
        assert outcome.seconds > 0
        assert outcome.waivers == ("no-cpu-limit",)

    def test_an_outcome_is_plain_data(self, kit: RunnerKit) -> None:
        """It goes to another machine and comes back equal."""
        outcome = kit.usual("talk").outcome
        assert from_data(to_data(outcome), TaskOutcome) == outcome

    def test_the_command_line_tells_no_secret(self, kit: RunnerKit) -> None:
        """It is words for people to repeat, before and after the run."""
        request = kit.request("leave", "0", environment={"PROBE_API_TOKEN": SECRET})
        runner = kit.runner()
        lines = (runner.command_line(kit.prepared, request), kit.do(request, runner).outcome.command)
        for words in lines:
            assert isinstance(words, tuple)
            assert words
            assert all(isinstance(word, str) for word in words)
            assert not [word for word in words if SECRET in word]

    def test_tasks_do_not_find_what_others_left(self, kit: RunnerKit) -> None:
        """Each has a scratch folder and a home of its own, which it may write."""
        for _ in range(2):
            report = kit.report("scratch")
            assert report == {"before": False, "home": True}

    def test_two_runners_at_the_same_time(self, kit: RunnerKit) -> None:
        """Each task has its own variables, log and outputs."""
        requests = [kit.request("facts", f"task {number}") for number in range(2)]
        runners = [kit.runner() for _ in requests]
        prepared = kit.prepared
        found: dict[int, TaskOutcome] = {}

        def work(number: int) -> None:
            found[number] = runners[number].run(prepared, requests[number])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found[number].exit_code for number in range(2)] == [0, 0]
        for number, request in enumerate(requests):
            assert f'"task {number}"' in (request.mount("out").path / "report.json").read_text()
            assert request.log.exists()

    def _needs_an_image(self, kit: RunnerKit, what: str) -> None:
        if kit.source.kind is SourceKind.TREE and not kit.prepared.command:
            kit.skip(what)

"""Words that people and manifests write, and the output of containers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medperf_core.builtin._engine_args import read_engine_args
from medperf_core.builtin._manifests import Reading
from medperf_core.errors import MedperfError
from medperf_core.plugin import Event, Gpus, Manifest
from medperf_core.plugin.build_context import build_arguments
from medperf_core.plugin.isolation import Waiver
from medperf_core.plugin.runner import TAIL_LINES
from medperf_core.plugin.tasklog import TaskLogWriter
from medperf_core.site.options import SiteOptions, merge, parse_size
from medperf_core.site.profiles import Profile
from medperf_core.site.redact import Redactor

from fuzz.target import Draw, Target

NAMES = ("ALLOW", "OFFLINE", "GPUS", "SHM_SIZE", "MEMORY", "CPUS", "PROCESSES", "TIME_LIMITS", "PLATFORM", "EXECUTOR")
WORDS = (
    "8g", "512 MiB", "1.5 GB", "1048576", "none", "all", "device=0,1", "no-isolation", "no-isolation=source:sha256:",
    "yes",
    "plain-http", "infer=3600,prepare=600", "*=1", "nan", "inf", "1e400", "-1", "0", "9" * 5000, "\u0663", "\u00b2",
    ",", "=", " ",
)  # fmt: skip


def run_words(data: bytes, folder: Path) -> None:
    """Sizes, GPUs, waivers, variables of the environment, build arguments."""
    text = data[1:].decode("utf-8", "surrogateescape")
    match data[0] % 5 if data else 0:
        case 0:
            size = parse_size(text)
            assert size > 0 and parse_size(str(size)) == size
        case 1:
            gpus = Gpus.parse(text)
            assert Gpus.parse(str(gpus)) == gpus
        case 2:
            waiver = Waiver.parse(text)
            assert Waiver.parse(str(waiver)) == waiver
        case 3:
            build_arguments(text.split("\n"))
        case _:
            variables = {f"MEDPERF_{name}": word for name, word in zip(NAMES, text.split("\n"), strict=False)}
            found = merge(Profile(), SiteOptions(), variables)
            assert found.resources.processes and found.resources.processes > 0
            assert all(0 < seconds < float("inf") for seconds in found.time_limits.values())


def run_engine_words(data: bytes, folder: Path) -> None:
    """``docker run`` options and commands in manifests."""
    text = data.decode("utf-8", "replace")
    reading = Reading(Manifest({}, None, "m"))
    wishes = read_engine_args(reading, text if len(data) % 2 else text.split("\n"), "docker.cpu_args")
    reading.words(text, "command")
    for name, value in wishes.environment.items():
        assert "=" not in name and "\0" not in name + value and "${" not in value
        assert not name.startswith("NVIDIA_"), "the manifest chose GPUs"
    assert all(note.isprintable() for note in reading.notes), "a note does something to a terminal"
    if wishes.shm_size is not None and not reading.problems:
        parse_size(wishes.shm_size)
    reading.finish()


def run_redact(data: bytes, folder: Path) -> None:
    draw = Draw(data)
    secret = draw.take(4 + draw.number(30)).decode("utf-8", "replace")
    redact = Redactor()
    redact.add(secret)
    text = draw.rest().decode("utf-8", "replace")
    at = draw.number(1) if not text else len(text) // 2
    out = redact(text[:at] + secret + text[at:])
    # a secret that begins with the mark's end may seem to stand there again: the mark's ] and what followed it
    if len(secret.strip()) >= 8 and secret not in "[redacted]" and not secret.startswith("]"):
        assert secret not in out, "a registered secret is still there"


def run_task_log(data: bytes, folder: Path) -> None:
    """Any output of a container, in pieces."""
    draw = Draw(data)
    limit = draw.number(200)
    told: list[Event] = []
    try:
        with TaskLogWriter(folder / "logs" / "log", "infer", told.append, limit) as log:
            total = 0
            while draw.left:
                piece = draw.take(1 + draw.number(64)) * (1 + draw.number(2) * 500)
                total += len(piece)
                log.feed(piece)
    except MedperfError as error:
        raise AssertionError("a log cannot refuse output") from error
    assert log.bytes == total and log.truncated == (total > limit)
    assert (folder / "logs" / "log").stat().st_size == min(total, limit)
    assert len(log.tail) <= TAIL_LINES
    assert all(char.isprintable() or char == "\t" for line in log.tail for char in line)


def _words_seeds() -> Iterable[bytes]:
    for number, word in enumerate(WORDS):
        yield bytes([number % 5]) + word.encode()
    yield b"\4" + b"\n".join(word.encode() for word in ("no-isolation", "no", "1", "1g", "2g", "1.5", "7", "infer=3"))


def _engine_seeds() -> Iterable[bytes]:
    for text in (
        "--shm-size 2g --gpus all", "-e A=b -v /:/host --privileged", "--ipc=host --runtime=nvidia", "-itd -p 80:80",
        "--gpus='\"device=0\"'",
        "-eA=b", "--shm-size=1bb", "'unbalanced", "-", "--", "--env", "--env=NVIDIA_VISIBLE_DEVICES=all",
        "-e A=${HOME}", "\\",
    ):  # fmt: skip
        yield text.encode()
        yield text.encode() + b"\n"


def _redact_seeds() -> Iterable[bytes]:
    for text in (
        "token=abc", "Authorization: Bearer abc.def.ghi", "https://u:p@host/x?sig=1", '{"password": "x\\"y"}',
        "--api-key k",
        "-----BEGIN RSA PRIVATE KEY-----\nabc", "\\\\\\\"secret\\\\\\\": \\\\\\\"", "eyJhbGciOi.eyJzdWIi.sig",
        "passwd" * 40,
    ):  # fmt: skip
        yield b"\x0csecretsecret" + text.encode()


TARGETS = (
    Target("words", run_words, _words_seeds, WORDS, 6000),
    Target(
        "engine-words",
        run_engine_words,
        _engine_seeds,
        ("--shm-size", "--gpus", "-e", "--env=", "=", "'", '"', "\\", "${"),
    ),
    Target(
        "redact",
        run_redact,
        _redact_seeds,
        ("token", "password", "=", ": ", '\\"', "'", "Bearer ", "-----BEGIN "),
        4096,
    ),
    Target("task-log", run_task_log, lambda: [b"\x40line\nline\r\n\xff\x1b[31m" * 5, b"\1" + b"x" * 300]),
)

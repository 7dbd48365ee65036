"""``python -m fuzz list``, ``python -m fuzz NAME [SECONDS]``, ``python -m fuzz all SECONDS``. See README.md."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from fuzz.targets import NAMES

INSTRUMENTED = ["medperf_core", "medperf_docker", "medperf_storage", "medperf_server", "tarfile", "shlex", "yaml"]
HANG_SECONDS = 120
MEMORY_MIB = 2048


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "all", "list"], metavar="NAME")
    parser.add_argument("seconds", type=int, nargs="?", default=60, help="for one target, or for all together")
    parser.add_argument("--out", type=Path, help="folder for corpora, findings and figures")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.name == "list":
        print("\n".join(NAMES))
        return 0
    out = arguments.out or Path(tempfile.mkdtemp(prefix="fuzz_medperf_"))
    if arguments.worker:
        fuzz(arguments.name, arguments.seconds, out)
        return 0
    names = NAMES if arguments.name == "all" else (arguments.name,)
    figures = [run(name, max(1, arguments.seconds // len(names)), out) for name in names]
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(table(figures))
    print(f"Findings and corpora are in {out}.")
    return 1 if any(each["findings"] for each in figures) else 0


def run(name: str, seconds: int, out: Path) -> dict[str, Any]:
    """Fuzz one target in processes of its own: one that libFuzzer ended (a hang, memory) is followed by another."""
    ends, executions = time.monotonic() + seconds, 0
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        while (left := int(ends - time.monotonic())) > 0:
            command = ["nice", "-n", "19", sys.executable, "-m", "fuzz", name, str(left), "--out", str(out), "--worker"]
            ended = subprocess.run(
                command, stdout=log, stderr=subprocess.PIPE, text=True, errors="replace", check=False
            )
            log.write(ended.stderr)
            told = re.findall(r"stat::number_of_executed_units:\s*(\d+)|^#(\d+)\s", ended.stderr, re.MULTILINE)
            executions += int(max(told[-1]) if told else 0)
            if ended.returncode not in (0, 70, 71, 77):
                log.write(f"ended with {ended.returncode}\n")
                if "number_of_executed_units" not in ended.stderr:
                    break  # it does not even start
    found = sorted((folder / "findings").glob("*.txt")) if (folder / "findings").is_dir() else []
    stopped = [*folder.glob("timeout-*"), *folder.glob("oom-*"), *folder.glob("crash-*")]
    result = {
        "target": name,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": seconds,
        "executions": executions,
        "findings": [path.read_text(encoding="utf-8").partition("\n")[0] for path in found]
        + [path.name for path in stopped],
    }
    print(json.dumps(result), flush=True)
    return result


def table(figures: list[dict[str, Any]]) -> str:
    """The figures as a table for README.md."""
    rows = [f"| {each['target']} | {each['executions']:,} | {len(each['findings'])} |" for each in figures]
    return "\n".join(["| target | executions | findings |", "| --- | --- | --- |", *rows])


def fuzz(name: str, seconds: int, out: Path) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    atheris: Any = import_module("atheris")

    with atheris.instrument_imports(include=INSTRUMENTED):
        from fuzz.targets import load

        target = load(name)
    from fuzz.guard import Guard

    folder = out / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number:04}").write_bytes(seed)
    words = folder / "words.txt"
    words.write_text("".join(f'"{_quoted(word)}"\n' for word in target.words if word), encoding="ascii")
    with tempfile.TemporaryDirectory(prefix="fuzz_work_") as scratch:
        guard = Guard(target, Path(scratch), folder / "findings")
        options = [
            "fuzz",
            f"-max_total_time={seconds}",
            f"-timeout={HANG_SECONDS}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-max_len={target.longest}",
            f"-artifact_prefix={folder}/",
            *([f"-dict={words}"] if target.words else []),
            "-print_final_stats=1",
            "-close_fd_mask=1",
            str(corpus),
        ]
        atheris.Setup(options, guard, enable_python_coverage=True)
        atheris.Fuzz()


def _quoted(word: str) -> str:
    return "".join(
        char if char.isascii() and char.isprintable() and char not in '"\\' else _escaped(char) for char in word
    )


def _escaped(char: str) -> str:
    return "".join(f"\\x{byte:02X}" for byte in char.encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    sys.exit(main())

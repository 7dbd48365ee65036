"""Entry of the ``medperf`` command. Imports nothing before it knows what is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with the exit code that ``docs/reference/errors.md`` documents.

    Args:
        arguments: words after the program's name; None takes them from the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["--version"], ["-V"]):
        _print_version()
    from medperf_core.cli.root import make_root
    from medperf_core.cli.run import run

    raise SystemExit(run(make_root(), words))


def _print_version() -> NoReturn:
    from importlib.metadata import version

    sys.stdout.write(f"medperf {version('medperf-core')}\n")
    sys.exit(0)


if __name__ == "__main__":
    main()

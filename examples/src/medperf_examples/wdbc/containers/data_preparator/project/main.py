"""Entry point of the data preparator: `main.py TASK --name=path ...`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import parameters
import prepare
import sanity_check
import summary
from problems import DataError
from settings import DEFAULTS


def main() -> int:
    """Run one task; 0 means done or sound, 1 means the data were refused, with the reasons on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    tasks = parser.add_subparsers(dest="task", required=True)
    for name in ("prepare", "sanity_check", "statistics"):
        task = tasks.add_parser(name, allow_abbrev=False)
        task.add_argument("--data_path", type=Path, required=True)
        task.add_argument("--labels_path", type=Path, required=True)
        task.add_argument("--parameters_file", type=Path)
        if name != "sanity_check":
            task.add_argument("--output_path", type=Path, required=True)
        if name == "prepare":
            task.add_argument("--output_labels_path", type=Path, required=True)
    given = parser.parse_args()
    try:
        settings = parameters.read(given.parameters_file, DEFAULTS)
        if given.task == "prepare":
            prepare.run(given.data_path, given.labels_path, given.output_path, given.output_labels_path)
        elif given.task == "sanity_check":
            sanity_check.run(given.data_path, given.labels_path, settings)
        else:
            summary.run(given.data_path, given.labels_path, given.output_path, settings)
    except DataError as error:
        for reason in error.reasons:
            print(f"error: {reason}", file=sys.stderr)
        return 1
    except (parameters.ParameterError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

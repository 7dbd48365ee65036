"""Entry point of the evaluator: `main.py evaluate --name=path ...`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bootstrap
import inputs
import parameters
import report

DEFAULTS = {"threshold": 0.5, "n_bootstrap": 1000, "seed": 20240229, "decimals": 4}


def main() -> int:
    """Write results.yaml; 1 means the input was refused, with the reasons on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    task = parser.add_subparsers(dest="task", required=True).add_parser("evaluate", allow_abbrev=False)
    for name in ("predictions", "labels", "output_path"):
        task.add_argument(f"--{name}", type=Path, required=True)
    task.add_argument("--parameters_file", type=Path)
    given = parser.parse_args()
    try:
        settings = parameters.read(given.parameters_file, DEFAULTS)
        malignant, benign = inputs.read(given.predictions, given.labels)
        estimates = bootstrap.estimate(
            malignant, benign, settings["threshold"], settings["n_bootstrap"], settings["seed"]
        )
        report.write(given.output_path, len(malignant) + len(benign), estimates, settings)
    except inputs.InputError as error:
        for reason in error.reasons:
            print(f"error: {reason}", file=sys.stderr)
        return 1
    except (parameters.ParameterError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

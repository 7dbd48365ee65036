"""Entry point of the model: `main.py infer --name=path ...`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cases
import model
import parameters

DEFAULTS = {"decimals": 6}


def main() -> int:
    """Write predictions.csv; 1 means the input was refused, with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    task = parser.add_subparsers(dest="task", required=True).add_parser("infer", allow_abbrev=False)
    for name in ("data_path", "weights", "output_path"):
        task.add_argument(f"--{name}", type=Path, required=True)
    task.add_argument("--parameters_file", type=Path)
    given = parser.parse_args()
    try:
        decimals = parameters.read(given.parameters_file, DEFAULTS)["decimals"]
        predict = model.load(given.weights)
        rows = cases.read(given.data_path, predict.features)
        probabilities = {name: predict(values) for name, values in rows.items()}
        cases.write_predictions(given.output_path, probabilities, decimals)
    except (cases.CaseError, model.ModelError, parameters.ParameterError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Run all measurements and print them as the table of docs/performance.md; exit code 1 if one misses its limit."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.installed import install
from benchmarks.startup import measure


def main() -> int:
    """Install, measure, print."""
    with tempfile.TemporaryDirectory() as folder:
        results = measure(install(Path(folder)), Path(folder) / "home")
    print("| command | median | against | median | ratio | at most |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case, ratio in results:
        print(
            f'| `{" ".join(case.command)}` | {ratio.ours * 1000:.0f} ms | `python -c "{case.peer}"` '
            f"| {ratio.peer * 1000:.0f} ms | {ratio.ratio:.2f} | {case.limit} |"
        )
    return 0 if all(ratio.ratio <= case.limit for case, ratio in results) else 1


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.faults [KILLS]``: kill -9 at many moments of the journey, one walk for each, and say what came."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.faults.journey import Journey, moments


def main(kills: int) -> int:
    """Walk and kill; the number of walks that did not end as the undisturbed one."""
    top = Path(tempfile.mkdtemp(prefix="medperf-soak-"))
    calm = Journey(top / "calm")
    durations = calm.undisturbed()
    state = calm.state()
    print(f"undisturbed: {sum(durations):.1f} s in {len(durations)} commands", flush=True)
    where: Counter[str] = Counter()
    bad = 0
    for number, moment in enumerate(moments(range(1000, 1000 + kills), sum(durations)), 1):
        journey = Journey(top / str(number))
        try:
            killed = journey.disturbed(moment, durations)
            where[" ".join(killed.command[:2])] += 1
            problems = journey.leftovers()
            if journey.state() != state:
                problems.append("another end than undisturbed")
        except (AssertionError, OSError, ValueError) as error:
            problems = [str(error)]
        if problems:
            bad += 1
            print(f"{number}: killed at {moment:.2f} s: {'; '.join(problems)} (kept in {journey.folder})", flush=True)
        else:
            shutil.rmtree(journey.folder)
    print(f"{kills} kills, {bad} walks with another end or leftovers; killed commands: {dict(where)}")
    return bad


if __name__ == "__main__":
    sys.exit(1 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 100) else 0)

"""Ends a task whose program was killed: a shell that waits beside it, as the kernel's own means do not reach so far.

An engine changes its credentials on its way into a container, and the kernel then forgets whose death should end it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medperf_singularity.engine import PATH

PID_FILE = "pid"
"""In the folder of a run: the engine's process id, which is its session's too."""
_SCRIPT = """
read -r word && exit 0
read -r session <"$1" || exit 0
for file in /proc/[0-9]*/stat; do
    { read -r line <"$file"; } 2>/dev/null || continue
    set -- ${line##*) }
    [ "$4" = "$session" ] && kill -KILL "${line%% *}"
done
"""


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """While this holds, the death of this program ends all processes of the session in ``folder``'s pid file."""
    guard = subprocess.Popen(
        ["/bin/sh", "-c", _SCRIPT, "medperf-guard", str(folder / PID_FILE)],
        cwd="/",
        env={"PATH": PATH},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.communicate(b"done\n")

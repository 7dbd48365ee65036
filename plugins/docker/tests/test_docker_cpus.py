"""The limit of processors, as the kernel holds it for a task."""

from __future__ import annotations

from typing import Any

from medperf_core.plugin import Enforcement, Limit, Resources

SCRIPT = """
if [ -f /sys/fs/cgroup/cpu.max ]; then cat /sys/fs/cgroup/cpu.max
else cd /sys/fs/cgroup/cpu*/ && echo $(cat cpu.cfs_quota_us cpu.cfs_period_us); fi
"""


def test_cpu_limit(site: Any) -> None:
    assert site.runner().capabilities().limits[Limit.CPU] is Enforcement.ENGINE
    for cpus in (0.5, 1):
        outcome = site.run(SCRIPT, resources=Resources(cpus=cpus))
        quota, period = map(int, outcome.tail[-1].split())
        assert quota == cpus * period

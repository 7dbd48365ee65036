"""First-party distributions, so that an error can name what to install. Nothing is imported or required by this."""

from __future__ import annotations

DISTRIBUTIONS: dict[str, dict[str, str]] = {
    "runner": {"docker": "medperf-docker", "singularity": "medperf-singularity", "apptainer": "medperf-singularity"},
    "storage": dict.fromkeys(("http", "https", "s3", "gs"), "medperf-storage"),
    "server": {"embedded": "medperf-server", "https": "medperf-rest", "http": "medperf-rest"},
    "executor": {"slurm": "medperf-slurm"},
    "packager": {},
}


def install_hint(seam: str, name: str) -> str | None:
    """The sentence that says what to install for a name that nobody provides; None if it is not a known one."""
    distribution = DISTRIBUTIONS.get(seam, {}).get(name)
    return f"Install it with: pip install {distribution}" if distribution else None

"""The real servers for S3 and Google Cloud Storage on this machine, and the clouds' own Python clients beside ours."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import attrs

from tests.engines import load

PEERS = {"s3": "boto3", "gs": "google-cloud-storage"}
_PEER = Path(__file__).with_name("peer_clouds.py")


@attrs.frozen
class Cloud:
    """A new bucket of one kind.

    Attributes:
        scheme: of its addresses.
        endpoint: of the server.
        python: with the cloud's own client, and nothing of this project.
        environment: variables with which both clients find the server and its keys.
    """

    scheme: str
    endpoint: str
    python: Path
    environment: Mapping[str, str]
    bucket: str = attrs.field(factory=lambda: f"benchmark-{uuid.uuid4().hex[:12]}")

    @classmethod
    def of(cls, scheme: str, folder: Path) -> Self:
        """Needs the servers of ``make engines``; installs the client below a folder.

        Raises:
            RuntimeError: the server does not run.
        """
        found = load()
        try:
            if scheme == "s3":
                endpoint = found["MEDPERF_TEST_S3"]
                variables = {
                    "AWS_ENDPOINT_URL": endpoint,
                    "AWS_ACCESS_KEY_ID": found["MEDPERF_TEST_S3_KEY"],
                    "AWS_SECRET_ACCESS_KEY": found["MEDPERF_TEST_S3_SECRET"],
                }
            else:
                endpoint = found["MEDPERF_TEST_GCS"]
                variables = {"STORAGE_EMULATOR_HOST": endpoint}
        except KeyError:
            raise RuntimeError(f"the server for {scheme} does not run; start it with: make engines") from None
        cloud = cls(scheme, endpoint, _installed(folder / "peers", PEERS[scheme]), {**os.environ, **variables})
        cloud.peer("make")
        return cloud

    def url(self, key: str) -> str:
        """The address of an object."""
        return f"{self.scheme}://{self.bucket}/{key}"

    def peer(self, *work: str) -> float:
        """Seconds of the cloud's own client; see ``peer_clouds``."""
        return float(self._run([str(self.python), str(_PEER), self.scheme, self.endpoint, self.bucket, *work]))

    def ours(self, *work: str, through: int | None = None) -> tuple[float, int]:
        """Seconds and MiB of memory of our client; see ``workers``.

        Args:
            through: a port of this machine that leads to the server; None for the server itself.
        """
        environment = dict(self.environment)
        if through is not None:
            name = "AWS_ENDPOINT_URL" if self.scheme == "s3" else "STORAGE_EMULATOR_HOST"
            environment[name] = f"http://127.0.0.1:{through}"
        told = self._run([sys.executable, "-m", "benchmarks.workers", *work], environment)
        seconds, memory = told.split()
        return float(seconds), int(memory)

    def _run(self, command: list[str], environment: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(command, env=environment or self.environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return done.stdout


def _installed(folder: Path, name: str) -> Path:
    python = folder / name / "bin" / "python"
    if not python.exists():
        for command in (
            [sys.executable, "-m", "venv", str(folder / name)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", name],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{name} could not be installed:\n{done.stderr[-2000:]}")
    return python

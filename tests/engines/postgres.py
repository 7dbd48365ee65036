"""PostgreSQL on loopback with a password; Debian's own clusters are left alone."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from . import processes, state
from .engine import Engine, Launch, need
from .probes import postgres_answers

ACCOUNT = "postgres"
USER = "medperf"
PASSWORD = "local-only"  # of a server that only this machine reaches
SERVER = "/usr/lib/postgresql/*/bin/postgres"
ADDRESS = "MEDPERF_TEST_POSTGRES"


class Postgres(Engine):
    """One cluster, run as the user postgres; the user of the tests is its superuser."""

    name = "postgres"
    title = "PostgreSQL (as the user postgres)"
    programs = ((SERVER, "postgresql"),)
    units = ("postgresql.service",)
    keys = (ADDRESS,)
    port_names = ("tcp",)
    stop_signal = signal.SIGINT  # a fast shutdown: open sessions are ended

    def prepare(self, ports: Mapping[str, int]) -> Launch:
        server = Path(need(SERVER))
        data = self.home / f"data-{server.parts[-3]}"
        self.home.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(self.home, ACCOUNT, ACCOUNT)
        if not data.exists():
            self._create(server.with_name("initdb"), data)
        self._clear(data)
        argv = [str(server), "-D", str(data), "-p", str(ports["tcp"])]
        for setting in (
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "password_encryption=scram-sha-256",
            "max_connections=200",
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
        ):
            argv += ["-c", setting]
        url = f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{ports['tcp']}/postgres"
        return Launch(argv, {ADDRESS: url}, ACCOUNT)

    def _create(self, initdb: Path, data: Path) -> None:
        fresh, secret = self.home / "fresh", state.folder() / "run" / "postgres.secret"
        shutil.rmtree(fresh, ignore_errors=True)
        state.write(secret, PASSWORD + "\n", 0o600)
        shutil.chown(secret, ACCOUNT)
        argv = [str(initdb), "-D", str(fresh), "-U", USER, f"--pwfile={secret}", "-N", "-E", "UTF8", "--locale=C.UTF-8"]
        try:
            processes.run([*argv, "--auth-local=scram-sha-256", "--auth-host=scram-sha-256"], ACCOUNT)
        finally:
            secret.unlink()
        fresh.rename(data)

    def _clear(self, data: Path) -> None:
        """End the sessions of a killed server, and remove its lock: a zombie of it would be taken for alive."""
        for each in [each for each in processes.everything() if each.program == "postgres"]:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{each.pid}/cwd").readlink() == data.resolve():
                    processes.kill(each)
        (data / "postmaster.pid").unlink(missing_ok=True)

    def answers(self, values: Mapping[str, str]) -> bool:
        return postgres_answers(urlsplit(values[ADDRESS]).port or 0, USER, "postgres")


ENGINES = (Postgres(),)

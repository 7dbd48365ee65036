"""Ceph's RADOS Gateway: a real S3 server, which checks signatures. One monitor, one disk in a file, one gateway."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import processes, state
from .engine import Engine, Launch, need
from .probes import http_status

KEY = "medperf-test"
SECRET = "local-only-secret"  # of a server that only this machine reaches
DISK_BYTES = 20 << 30
"""Of a file that takes only the room that is written."""
MONITOR, DISK, GATEWAY = "s3-monitor", "s3-disk", "s3"
SETTINGS = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{messenger},v1:127.0.0.1:{legacy}]
public network = 127.0.0.0/8
public addr = 127.0.0.1
ms bind ipv6 = false
keyring = {home}/keyring
run dir = {home}/run
admin socket = {home}/run/$name.asok
log file = {home}/log/$name.log
pid file = {home}/run/$name.pid
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 0
bluestore block size = {bytes}
osd memory target = 939524096
osd max object name len = 256
osd max object namespace len = 64
[mon.a]
mon data = {home}/monitor
[osd.0]
osd data = {home}/disk
[client.rgw.a]
rgw data = {home}/gateway
rgw frontends = beast endpoint=127.0.0.1:{http}
rgw thread pool size = 32
rgw gc obj min wait = 10
rgw gc processor period = 10
rgw s3 auth use sts = true
rgw sts key = {sts_key}
"""
STS_KEY = "0123456789abcdef"  # as SECRET
ROLE = "arn:aws:iam:::role/reader"
"""Which the account may assume at the same address; it may do everything with every bucket."""
TRUST = """\
{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["sts:AssumeRole"],
  "Principal": {"AWS": ["arn:aws:iam:::user/test"]}}]}"""
RIGHTS = """\
{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": "arn:aws:s3:::*"}]}"""
ACCOUNTS = (
    ("mon.", ("mon", "allow *")),
    ("client.admin", ("mon", "allow *", "osd", "allow *")),
    ("osd.0", ("mon", "allow profile osd", "osd", "allow *")),
    ("client.rgw.a", ("mon", "allow rw", "osd", "allow rwx")),
)


class Ceph(Engine):
    """Three processes, each of which needs the one before. Its data are made new when they are not whole."""

    name = GATEWAY
    title = "a Ceph cluster of one disk with its S3 gateway"
    programs = (
        ("ceph", "ceph-common"),
        ("ceph-mon", "ceph-mon"),
        ("ceph-osd", "ceph-osd"),
        ("radosgw", "radosgw"),
    )
    units = ("ceph.target", "ceph-mon.target", "ceph-osd.target", "ceph-radosgw.target", "ceph-crash.service")
    keys = ("MEDPERF_TEST_S3", "MEDPERF_TEST_S3_KEY", "MEDPERF_TEST_S3_SECRET")
    port_names = ("http", "messenger", "legacy")
    patience = 90

    @property
    def environment(self) -> dict[str, str]:
        """Its own settings instead of the machine's."""
        return processes.environment(CEPH_CONF=f"{self.home}/ceph.conf")

    def prepare(self, ports: Mapping[str, int]) -> Launch:
        made = self.home / "made.json"
        kept = made.read_text() if made.exists() else ""
        if kept != repr(sorted(ports.items())):  # a cluster keeps its monitor's address for good
            self._remove_data()
        for part in ("monitor", "disk", "gateway", "run", "log"):
            (self.home / part).mkdir(mode=0o755, parents=True, exist_ok=True)
        fsid = self.home / "fsid"
        if not fsid.exists():
            state.write(fsid, str(uuid.uuid4()))
        text = SETTINGS.format(home=self.home, fsid=fsid.read_text(), bytes=DISK_BYTES, sts_key=STS_KEY, **ports)
        state.write(self.home / "ceph.conf", text)
        if not made.exists():
            self._make_monitor(ports)
        processes.spawn(MONITOR, [need("ceph-mon"), "-f", "-i", "a"], None, self.environment)
        if not made.exists():
            identity = str(uuid.uuid4())
            self._ceph("osd", "create", identity, "0")
            processes.run([need("ceph-osd"), "-i", "0", "--mkfs", "--osd-uuid", identity], None, self.environment)
        processes.spawn(DISK, [need("ceph-osd"), "-f", "-i", "0"], None, self.environment)
        self._wait_for_disk()
        state.write(made, repr(sorted(ports.items())))
        argv = [need("radosgw"), "-f", "-n", "client.rgw.a"]
        values = dict(zip(self.keys, (f"http://127.0.0.1:{ports['http']}", KEY, SECRET), strict=True))
        return Launch(argv, values, None, self.environment)

    def start(self) -> dict[str, str]:
        values = super().start()
        words = ["user", "create", "--uid=test", "--display-name=test", f"--access-key={KEY}", f"--secret={SECRET}"]
        role = ["--role-name=reader"]
        policy = [*role, "--policy-name=all", f"--policy-doc={RIGHTS}"]
        with contextlib.suppress(processes.EngineError):  # the account is there already
            self._run("radosgw-admin", *words)
        self._run("radosgw-admin", "user", "modify", "--uid=test", "--max-buckets=0")  # as many as there are tests
        with contextlib.suppress(processes.EngineError):  # the role is there already
            self._run("radosgw-admin", "role", "create", *role, "--path=/", f"--assume-role-policy-doc={TRUST}")
        self._run("radosgw-admin", "role-policy", "put", *policy)
        return values

    def running(self, values: Mapping[str, str]) -> bool:
        return processes.alive(MONITOR) and processes.alive(DISK) and super().running(values)

    def answers(self, values: Mapping[str, str]) -> bool:
        return http_status(values[self.keys[0]]) == 200

    def stop(self) -> None:
        for name in (GATEWAY, DISK, MONITOR):
            processes.stop(name, self.stop_signal, 20)

    def _make_monitor(self, ports: Mapping[str, int]) -> None:
        keyring, places = f"{self.home}/keyring", f"{self.home}/monmap"
        fsid = (self.home / "fsid").read_text()
        address = f"[v2:127.0.0.1:{ports['messenger']},v1:127.0.0.1:{ports['legacy']}]"
        for index, (account, rights) in enumerate(ACCOUNTS):
            caps = [word for pair in zip(rights[::2], rights[1::2], strict=True) for word in ("--cap", *pair)]
            new = ["--create-keyring"] if index == 0 else []
            self._run("ceph-authtool", *new, keyring, "--gen-key", "-n", account, *caps)
        self._run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", address, places)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", places, "--keyring", keyring)

    def _wait_for_disk(self) -> None:
        deadline = time.monotonic() + self.patience
        while "1 up" not in self._ceph("osd", "stat"):
            if time.monotonic() > deadline:
                raise processes.EngineError("the disk of the cluster did not come up")
            time.sleep(0.1)

    def _ceph(self, *words: str) -> str:
        return self._run("ceph", "--connect-timeout=30", *words)

    def _run(self, program: str, *words: str) -> str:
        return processes.run([need(program), *words], None, self.environment)

    def _remove_data(self) -> None:
        for name in ("made.json", "fsid", "keyring", "monmap"):
            (self.home / name).unlink(missing_ok=True)
        for part in ("monitor", "disk", "gateway"):
            _empty(self.home / part)


def _empty(folder: Path) -> None:
    names: Sequence[Path] = sorted(folder.rglob("*"), reverse=True) if folder.is_dir() else ()
    for path in names:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


ENGINES = (Ceph(),)

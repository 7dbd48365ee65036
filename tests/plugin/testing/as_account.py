"""Runs tests as another account: by a pytest of its own, which becomes that account before the first of them.

It begins as root, because the checkout and its Python may stand where that account may not read: whatever the tests
could import later is imported before.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pkgutil
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import attrs
import pytest

from medperf_core.plugin.testing.probe_image import Probe

ROOT = Path(__file__).parents[3]
ACCOUNT = "MEDPERF_TEST_ACCOUNT"
PACKAGES = ("medperf_core.plugin", "medperf_docker", "medperf_singularity", "docker", "requests", "urllib3", "_pytest")
LATE = ("difflib", "encodings.idna", "pprint", "socket", "xml.etree.ElementTree")
"""Of the standard library, what is imported in the middle of a test."""
PATIENCE = 500
NOT_PROMISED = "NotPromised: "
"""Begins the reason of such a test."""
_PR_SET_DUMPABLE = 4
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")


@attrs.frozen
class Results:
    """What became of the tests: names of those that passed, and the reason of each that was passed over."""

    passed: frozenset[str]
    skipped: Mapping[str, str]


def find_account(name: str) -> pwd.struct_passwd:
    """The account of this name; without it the calling test is skipped, in CI it fails."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        words = f"there is no account {name}: run `make engines`"
        return pytest.fail(words) if os.environ.get("CI") == "true" else pytest.skip(words)


def run_as(account: pwd.struct_passwd, *tests: str, variables: Mapping[str, str]) -> Results:
    """Run these tests of the checkout as an account, which has a home and folders of its own for that time.

    The calling test fails if one of them fails, or is skipped for another reason than that nothing was promised.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "XDG_", "DBUS_"))}
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="medperf-account-") as name:
        folder = Path(name)
        os.chown(folder, account.pw_uid, account.pw_gid)
        own = {"HOME": name, "USER": account.pw_name, "LOGNAME": account.pw_name, ACCOUNT: account.pw_name}
        report = folder / "report.xml"
        options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-p", "tests.plugin.testing.as_account"]
        options += [f"--basetemp={folder / 'temp'}", f"--junitxml={report}"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=ROOT,
            env={**kept, **own, "CI": "true", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode != 0:
            pytest.fail(f"as {account.pw_name}:\n{done.stdout[-20_000:]}", pytrace=False)
        others = [path for path in folder.rglob("*") if path.lstat().st_uid != account.pw_uid]
        assert others == [], f"what was left does not belong to {account.pw_name}: {others}"
        return _read(report)


def _read(report: Path) -> Results:
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    skipped = {
        case.attrib["name"]: found.attrib["message"] for case in cases if (found := case.find("skipped")) is not None
    }
    return Results(frozenset(case.attrib["name"] for case in cases) - skipped.keys(), skipped)


@pytest.fixture(scope="session", autouse=True)
def account(medperf_probe: Probe, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In the pytest that ``run_as`` starts, before any other fixture: from here on, this is the account."""
    found = pwd.getpwnam(os.environ[ACCOUNT])
    assert medperf_probe.archive, "made now, of a Python that the account may not be able to read"
    for name in (*LATE, *PACKAGES):
        _load(name)
    top = tmp_path_factory.getbasetemp()
    for path in (top, *top.rglob("*")):
        os.chown(path, found.pw_uid, found.pw_gid, follow_symlinks=False)
    os.setgroups([])
    os.setgid(found.pw_gid)
    os.setuid(found.pw_uid)
    # otherwise /proc/self of a program that changed its account is still root's
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _load(name: str) -> None:
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{name}.", onerror=lambda name: None):
        with suppress(Exception):  # parts for other systems, or for libraries that are not here
            importlib.import_module(found.name)

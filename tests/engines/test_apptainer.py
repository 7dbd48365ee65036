"""The Apptainer of `make engines`: what is downloaded, what is made of it, and that it runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests import engines
from tests.engines import apptainer, apptainer_settings, debian_suite
from tests.engines import apptainer_package as package
from tests.engines.processes import EngineError

CONTROL = """\
Package: apptainer
Version: 1.4.5-2
Depends: ca-certificates, containernetworking-plugins, uidmap, libc6 (>= 2.38), libseccomp2 (>= 2.5.0),
 libsqlite3-0 (>= 3.36.0), libc6-helper
Built-Using: golang (= 1),
 runc (= 2)
Description: runs containers
 in two lines
"""


def offers(**changed: list[str]) -> dict[str, list[str]]:
    return {pin.package: changed.get(pin.package, [pin.version]) for pin in package.PINS}


def download(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Packages whose contents are their names, pinned to what they hold."""
    made = home / "made"
    made.mkdir(parents=True)
    pins = []
    for pin in package.PINS:
        (made / f"{pin.package}_1_amd64.deb").write_text(pin.package)
        pins.append(package.Pin(pin.package, "1", package.sha256(made / f"{pin.package}_1_amd64.deb")))
    monkeypatch.setattr(package, "PINS", tuple(pins))
    monkeypatch.setattr(debian_suite.Suite, "update", lambda self: None)
    monkeypatch.setattr(debian_suite.Suite, "offers", lambda self, names: {name: ["1"] for name in names})

    def fetch(self: debian_suite.Suite, versions: dict[str, str], into: Path) -> dict[str, Path]:
        return {name: (made / f"{name}_1_amd64.deb").rename(into / f"{name}_1_amd64.deb") for name in versions}

    monkeypatch.setattr(debian_suite.Suite, "download", fetch)
    return package.packages(home)


def program(folder: Path, words: str, code: int = 0) -> str:
    path = folder / "apptainer"
    path.write_text(f"#!/bin/sh\necho {words}\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def test_the_package_needs_no_more_what_it_brings_along() -> None:
    assert package.relax(CONTROL) == (
        f"Package: apptainer\nVersion: 1.4.5-2{package.MARK}\nDepends: ca-certificates, uidmap, libc6-helper\n"
        "Description: runs containers\n in two lines\n"
    )


def test_the_pinned_version_is_taken_even_if_there_is_a_newer_one(capsys: pytest.CaptureFixture[str]) -> None:
    pinned = {pin.package: pin.version for pin in package.PINS}
    assert package.choose(offers(apptainer=["99", pinned["apptainer"]])) == pinned
    assert capsys.readouterr().out == ""


def test_of_a_version_that_is_gone_the_newest_is_taken_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = package.choose(offers(libc6=["99-1", "98-1"]))
    assert chosen["libc6"] == "99-1"
    assert chosen["apptainer"] == package.PINS[0].version
    assert "takes 99-1" in capsys.readouterr().out


def test_a_suite_without_one_of_the_packages_is_named() -> None:
    with pytest.raises(EngineError, match="no package zlib1g"):
        package.choose(offers(zlib1g=[]))


def test_a_pinned_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.deb"
    other.write_bytes(b"something else")
    versions = {pin.package: pin.version for pin in package.PINS}
    with pytest.raises(EngineError, match=r"other\.deb has the SHA-256"):
        package.check(dict.fromkeys(versions, other), versions)
    package.check(dict.fromkeys(versions, other), dict.fromkeys(versions, "99"))


def test_a_download_is_used_again_without_asking_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = download(tmp_path, monkeypatch)
    assert {name: path.read_text() for name, path in files.items()} == {name: name for name in offers()}

    def asked(self: debian_suite.Suite) -> None:
        raise AssertionError("the suite was asked")

    monkeypatch.setattr(debian_suite.Suite, "update", asked)
    assert package.packages(tmp_path) == files


def test_a_kept_file_that_changed_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download(tmp_path, monkeypatch)["libc6"].write_text("changed")
    assert package.kept(tmp_path) is None


def test_files_of_other_pins_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download(tmp_path, monkeypatch)
    assert package.kept(tmp_path) is not None
    monkeypatch.setattr(package, "PINS", (package.Pin("apptainer", "2", "0" * 64), *package.PINS[1:]))
    assert package.kept(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"asked": 1, "packages": 2}'])
def test_a_list_of_kept_files_that_is_none_is_not_used(text: str, tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/packages.json").write_text(text)
    assert package.kept(tmp_path) is None


def test_only_the_libraries_themselves_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "source/usr/lib/x86_64-linux-gnu"
    (source / "gconv").mkdir(parents=True)
    for name in ("libc.so.6", "libz.so.1.3.2", "libz.so", "libc.a", "gconv/one.so.1"):
        (source / name).write_text(name)
    (source / "libz.so.1").symlink_to("libz.so.1.3.2")
    package.copy_libraries(tmp_path / "source", tmp_path / "target")
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == ["libc.so.6", "libz.so.1", "libz.so.1.3.2"]
    assert (tmp_path / "target/libz.so.1").read_text() == "libz.so.1.3.2"


def test_no_network_but_none_is_left(tmp_path: Path) -> None:
    network = tmp_path / "etc/apptainer/network"
    network.mkdir(parents=True)
    (network / "00_bridge.conflist").touch()
    (tmp_path / "DEBIAN").mkdir()
    listed = tmp_path / "DEBIAN/conffiles"
    listed.write_text("/etc/apptainer/apptainer.conf\n/etc/apptainer/network/00_bridge.conflist\n")
    apptainer_settings.only_network_none(tmp_path)
    assert not list(network.iterdir())
    assert listed.read_text() == "/etc/apptainer/apptainer.conf\n"


def test_only_the_system_calls_that_are_missing_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "default.json"
    first = {"names": ["read", "clone3"], "action": "SCMP_ACT_ALLOW", "args": []}
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [first]}))
    apptainer_settings.allow_new_calls(path)
    once = path.read_text()
    added = json.loads(once)["syscalls"][1:]
    assert json.loads(once)["syscalls"][0] == first
    assert [rule["action"] for rule in added] == ["SCMP_ACT_ALLOW"]
    assert "clone3" not in added[0]["names"] and "rseq" in added[0]["names"]
    apptainer_settings.allow_new_calls(path)
    assert path.read_text() == once


def test_the_capabilities_that_root_lacks_are_found() -> None:
    have, missing = apptainer_settings.root_capabilities("Name:\tx\nCapBnd:\t000001fffeffffff\nSeccomp:\t0\n", 40)
    assert missing == ["CAP_SYS_RESOURCE"]
    assert len(have) == 40 and have[0] == "CAP_CHOWN" and have[-1] == "CAP_CHECKPOINT_RESTORE"
    assert apptainer_settings.root_capabilities("CapBnd:\t0000003fffffffff\n", 37)[1] == []


def test_a_setting_is_changed_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "apptainer.conf"
    path.write_text("# systemd cgroups = yes\nsystemd cgroups = yes\nmount home = yes\n")
    apptainer_settings.put(path, "systemd cgroups", "no")
    apptainer_settings.put(path, "allow suid", "no")
    assert path.read_text() == "# systemd cgroups = yes\nsystemd cgroups = no\nmount home = yes\nallow suid = no\n"


@pytest.mark.parametrize(
    ("words", "code", "enough"),
    [
        ("apptainer version 1.1.0", 0, True),
        ("apptainer version 1.4.5-2.el9", 0, True),
        ("apptainer version 1.0.3", 0, False),
        ("apptainer version 1.4.5", 1, False),
        ("singularity-ce version 4.1.0", 0, False),
    ],
)
def test_a_program_is_used_if_it_is_a_new_enough_apptainer(words: str, code: int, enough: bool, tmp_path: Path) -> None:
    assert apptainer.new_enough(program(tmp_path, words, code)) is enough


def test_a_program_of_the_machine_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path, "apptainer version 1.3.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    absent = (("/not/there/mksquashfs", "squashfs-tools"), ("/not/there/busybox", "busybox-static"))
    monkeypatch.setattr(apptainer.Apptainer, "programs", absent)
    engine = apptainer.Apptainer()
    assert engine.outside() == path
    assert engine.missing() == ["busybox-static"]  # for the probe
    assert engine.plan().startswith(f"Uses {path} (apptainer version 1.3.1) as it is.")


def test_a_package_of_the_machine_that_does_not_work_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "installed", lambda: "1.0.3-1")
    monkeypatch.setattr(apptainer, "new_enough", lambda path: False)
    monkeypatch.setattr(package, "make", lambda home: pytest.fail("a package was made"))
    engine = apptainer.Apptainer()
    assert engine.plan().startswith("Installs no Apptainer")
    with pytest.raises(EngineError, match=r"1\.0\.3-1 here does not work"):
        engine.prepare({})


@pytest.mark.parametrize(
    ("version", "current"), [("1-1", True), (f"1-1{package.MARK}", True), ("1-1+medperf0", False), (None, True)]
)
def test_a_package_that_was_made_in_another_way_is_made_again(
    version: str | None, current: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "installed", lambda: version)
    monkeypatch.setattr(apptainer, "new_enough", lambda path: True)
    monkeypatch.setattr(apptainer, "planned", lambda: "")
    assert apptainer.Apptainer().running({"MEDPERF_TEST_APPTAINER": apptainer.PROGRAM}) is current


def test_what_fails_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.engines.debian_suite.time.sleep", lambda seconds: None)
    tries: list[int] = []

    def action() -> None:
        tries.append(1)
        if len(tries) < needed:
            raise EngineError("busy")

    needed = 2
    debian_suite.twice(action)
    assert len(tries) == 2
    tries.clear()
    needed = 3
    with pytest.raises(EngineError, match="busy"):
        debian_suite.twice(action)


def test_the_program_runs_a_container_without_a_network(tmp_path: Path) -> None:
    path = engines.require("apptainer")["MEDPERF_TEST_APPTAINER"]
    box = tmp_path / "box"
    package.write_probe(box)
    network = ["/bin/busybox", "readlink", "/proc/self/ns/net"]
    argv = [path, "exec", "--containall", "--net", "--network", "none", str(box), *network]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("net:[") and done.stdout.strip() != str(Path("/proc/self/ns/net").readlink())
    assert apptainer.Apptainer().shown({"MEDPERF_TEST_APPTAINER": path}).startswith(f"{path} (apptainer version ")

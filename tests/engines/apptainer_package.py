"""Debian 12 has no Apptainer: makes a package for it from that of a newer suite.

The newer suite's programs need its C library. They get a copy of that, and of the other libraries that they load, in a
folder of their own, where also their loader lies (patchelf writes both paths into them). The system's libraries stay as
they are, and no other program sees the copies.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

from . import apptainer_settings, state
from .debian_suite import Suite
from .engine import need
from .processes import EngineError, run

SUITE = "sid"
MARK = "+medperf1"
"""The end of the version of a package that was made here; count it up when what is done to the package changes."""
PRIVATE = "/usr/lib/medperf-apptainer"
NOT_NEEDED = ("libc6", "libseccomp2", "libsqlite3-0", "containernetworking-plugins")
"""What the package depends on no more: private copies, and plug-ins of networks that it does not have."""


@dataclasses.dataclass(frozen=True)
class Pin:
    """A package, the version to take while the suite has it, and the SHA-256 of its file for amd64."""

    package: str
    version: str
    sha256: str


PINS = (
    Pin("apptainer", "1.4.5-2", "26cf96e08fccb0e50ea0f285a5a19f940ee873d167a0680584fe6eba7d197d65"),
    Pin("libc6", "2.43-7", "5c71715c51103beb4fbba9fe9f8dff604af6610dfa71c70bff342f54a7860803"),
    Pin("libgcc-s1", "16.2.0-4", "d251ea642c3795e8723ac2b9eeebe511467ca04590ba70f3d555a7616787d7e3"),
    Pin("libseccomp2", "2.6.1-1+b2", "2d97c9f6ce55043caff1f6818ff9f85693528604f9d7538bd1ff61a492db8567"),
    Pin("libsqlite3-0", "3.53.4-2", "bbf13c9326764d05e37e6590debdaa6f33af6bd822e3ca1204789d9d1dc23b11"),
    Pin("zlib1g", "1:1.3.dfsg+really1.3.2-4", "8506ce550a81ac14b047608e0df121037d9cbb10c3cc28446f68cf8c1d9d31ce"),
)


def make(home: Path) -> Path:
    """Download what is not there yet, and make the package; its file, below `home`."""
    if (machine := run(["dpkg", "--print-architecture"]).strip()) != "amd64":
        raise EngineError(f"Apptainer is installed from here on amd64 only, and this machine is {machine}")
    home.mkdir(mode=0o755, exist_ok=True)
    return repack(packages(home), home)


def packages(home: Path) -> dict[str, Path]:
    """The downloaded packages by name: those kept from the last time, else new ones."""
    if (files := kept(home)) is not None:
        return files
    suite = Suite(SUITE, home / "apt")
    suite.update()
    versions = choose(suite.offers(pin.package for pin in PINS))
    fresh, folder = home / "packages.new", home / "packages"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    files = suite.download(versions, fresh)
    check(files, versions)
    listed = {name: {"file": path.name, "sha256": sha256(path)} for name, path in files.items()}
    (fresh / "packages.json").write_text(json.dumps({"asked": _asked(), "packages": listed}, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return {name: folder / path.name for name, path in files.items()}


def kept(home: Path) -> dict[str, Path] | None:
    """The packages of the last download; None if it was for other pins or a file is not what it was."""
    folder = home / "packages"
    try:
        listed = json.loads((folder / "packages.json").read_text())
        if listed["asked"] != _asked():
            return None
        files = {name: folder / entry["file"] for name, entry in listed["packages"].items()}
        sound = all(sha256(files[pin.package]) == listed["packages"][pin.package]["sha256"] for pin in PINS)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files if sound else None


def _asked() -> list[str]:
    return [pin.sha256 for pin in PINS]


def choose(offers: dict[str, list[str]]) -> dict[str, str]:
    """The pinned version of each package, or, where the suite has it no longer, its newest; says which."""
    chosen: dict[str, str] = {}
    for pin in PINS:
        if not offers[pin.package]:
            raise EngineError(f"Debian's suite {SUITE} has no package {pin.package} now, which Apptainer needs")
        found = pin.version in offers[pin.package]
        chosen[pin.package] = pin.version if found else offers[pin.package][0]
        if not found:
            print(
                f"apptainer: {SUITE} has {pin.package} {pin.version} no longer, takes {chosen[pin.package]}", flush=True
            )
    return chosen


def check(files: dict[str, Path], versions: dict[str, str]) -> None:
    """Compare the files of pinned versions with their hashes; apt has compared all of them with the signed index."""
    for pin in PINS:
        if versions[pin.package] == pin.version and (found := sha256(files[pin.package])) != pin.sha256:
            raise EngineError(
                f"{files[pin.package].name} has the SHA-256 {found}, not the expected {pin.sha256}. It is not "
                "installed. Try again, or ask those who run the mirror that apt uses here."
            )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def repack(files: dict[str, Path], home: Path) -> Path:
    """Make one package of Apptainer and its libraries."""
    build = home / "build"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir()
    tree, libraries = build / "tree", build / "libraries"
    run(["dpkg-deb", "--raw-extract", str(files["apptainer"]), str(tree)])
    for name, path in files.items():
        if name != "apptainer":
            run(["dpkg-deb", "--extract", str(path), str(libraries)])
    copy_libraries(libraries, tree / PRIVATE[1:])
    programs = [tree / "usr/bin/apptainer", *tree.glob("usr/lib/*/apptainer/bin/starter*")]
    if len(programs) < 2:
        raise EngineError(f"{files['apptainer'].name} has another layout than expected: it has no starter")
    for program in programs:
        loader = Path(run([need("patchelf"), "--print-interpreter", str(program)]).strip()).name
        if not (tree / PRIVATE[1:] / loader).is_file():
            raise EngineError(f"{files['libc6'].name} has no loader {loader}, which {program.name} needs")
        paths = ["--set-interpreter", f"{PRIVATE}/{loader}", "--force-rpath", "--set-rpath", PRIVATE]
        run([need("patchelf"), *paths, str(program)])
    apptainer_settings.apply(tree)
    control = tree / "DEBIAN/control"
    control.write_text(relax(control.read_text()))
    (tree / "DEBIAN/md5sums").unlink(missing_ok=True)  # of the files as they were; dpkg makes new ones
    package = build / "apptainer.deb"
    run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(package)])
    return package


def copy_libraries(source: Path, target: Path) -> None:
    """Copy the shared libraries themselves, without plug-ins in folders below and without files for compilers."""
    target.mkdir(parents=True)
    for folder in source.glob("**/x86_64-linux-gnu"):
        for path in folder.iterdir():
            if re.search(r"\.so\.[0-9.]+$", path.name) and (path.is_symlink() or path.is_file()):
                shutil.copy2(path, target / path.name, follow_symlinks=False)


def relax(control: str) -> str:
    """The package's description with a marked version, and without what it needs no more."""
    fields = []
    for field in re.split(r"\n(?=\S)", control.strip()):
        name, _, value = field.partition(":")
        if name in ("Built-Using", "Static-Built-Using"):
            continue
        if name == "Version":
            value = f"{value}{MARK}"
        elif name in ("Depends", "Pre-Depends"):
            relations = [each.strip() for each in value.split(",")]
            value = " " + ", ".join(each for each in relations if re.split(r"[\s(:]", each)[0] not in NOT_NEEDED)
        if value.strip():
            fields.append(f"{name}:{value}\n")
    return "".join(fields)


def clear(home: Path) -> None:
    """Remove what only the making needed."""
    shutil.rmtree(home / "build", ignore_errors=True)


def installed() -> str | None:
    """The version of Debian's package apptainer on this machine; None if it is not installed."""
    try:
        words = run(["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", "apptainer"]).split()
    except EngineError:
        return None
    return words[1] if words[0] == "installed" else None


def write_probe(folder: Path) -> None:
    """A container that is a folder with one program."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    for name in ("dev", "etc", "proc", "root", "sys", "tmp", "var/tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    state.write(folder / "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
    state.write(folder / "etc/group", "root:x:0:\n")
    shutil.copy2("/bin/busybox", folder / "bin/busybox")

"""Files that mean harm while images are made of them: build files, base images, sandboxes and SIFs of strangers."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from medperf_singularity import convert, doctor, leftovers
from medperf_singularity import sif as sif_format
from medperf_singularity.assemble import copy_into, make_folder, remove_special
from medperf_singularity.config import ImageConfig
from medperf_singularity.engine import Engine
from medperf_singularity.images import sandbox
from medperf_singularity.images.login import login
from medperf_singularity.recipe import Copy, read_recipe

from medperf_core.entities import ImageSource, SourceKind
from medperf_core.errors import ExecutionError, InvalidEntityError, VerificationError


def special_files(folder: Path) -> list[Path]:
    """A pipe, and for root a device whose number no driver has: what is written to either reaches this machine."""
    folder.mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    if os.geteuid() == 0:
        os.mknod(folder / "device", stat.S_IFBLK | 0o666, os.makedev(240, 7))
    return sorted(folder.iterdir())


@pytest.mark.parametrize("base", ["/", "/etc/../", "/images/other.sif", "/images/base.sif/.."])
def test_a_build_file_cannot_name_a_place_of_this_machine(place: Any, tmp_path: Path, base: str) -> None:
    (tmp_path / "tree").mkdir()
    source = ImageSource(SourceKind.TREE, str(tmp_path / "tree"), dockerfile="Dockerfile")
    (tmp_path / "tree" / "Dockerfile").write_text(f"ARG BASE={base}\nFROM ${{BASE}}\nCOPY . /x\n")
    for arguments in ((), ("OTHER=/images/base.sif",)):
        with pytest.raises(ExecutionError, match="nobody here named"):
            place.runner({"build_args": arguments}).prepare(source)


def test_files_replace_devices_and_pipes_of_the_base_image(tmp_path: Path) -> None:
    root, tree = tmp_path / "root", tmp_path / "tree"
    tree.mkdir()
    for path in special_files(root / "app"):
        (tree / path.name).write_text("new")
        copy_into(tree, root, Copy((path.name,), f"/app/{path.name}"))
        assert path.is_file() and path.read_text() == "new"


def test_devices_and_pipes_are_taken_out_of_a_base_image(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert special_files(root / "deep" / "app")
    (root / "kept").symlink_to("deep")
    (root / "deep" / "file").touch()
    remove_special(root)
    assert {str(path.relative_to(root)) for path in root.rglob("*")} == {"kept", "deep", "deep/app", "deep/file"}


def test_folders_that_cannot_be_are_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").touch()
    for path in ("/file", "/file/below", f"/{'x' * 300}", "/a\0b"):
        with pytest.raises(ExecutionError, match="cannot be made"):
            make_folder(tmp_path, path)
        with pytest.raises(ExecutionError, match="cannot be copied"):
            copy_into(tmp_path / "tree", tmp_path, Copy(("a",), f"{path}/x/"))


@pytest.mark.parametrize(
    "text",
    [
        "ENV A-B!=1",
        "ENV =1",
        'ENTRYPOINT ["a\\u0000b"]',
        'CMD ["\\ud800"]',
        f"WORKDIR /{'x' * 5000}",
        f"ENV A={'x' * (900 << 10)}\nENV B=$A\nENTRYPOINT x",
        "ENV A=0123456789\n" + "ENV A=$A$A$A$A\n" * 30,
        "SHELL bash",
    ],
)
def test_a_build_file_without_measure_is_refused(text: str) -> None:
    with pytest.raises(InvalidEntityError):
        read_recipe(f"FROM a\n{text}\n", {}).configure(ImageConfig(env={"PATH": "/bin"}))


def test_what_a_build_file_says_of_shells_and_permissions_holds(tmp_path: Path) -> None:
    recipe = read_recipe('FROM a\nSHELL ["/bin/bash", "-c"]\nCOPY --chmod=0750 a /a\nCMD echo $A\n', {})
    assert recipe.configure(ImageConfig()).cmd == ("/bin/bash", "-c", "echo $A")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").touch()
    copy_into(tmp_path / "tree", tmp_path, recipe.copies[0])
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o750
    for text in ("COPY --chmod=u+x a /a", "COPY --chmod=4755 a /a", "ENV X=x.tar.gz\nADD $X /a"):
        with pytest.raises(ExecutionError, match="not done on this platform"):
            read_recipe(f"FROM a\n{text}\n", {})


def root_file_system(folder: Path) -> Path:
    for name in ("bin", "etc"):
        (folder / name).mkdir(parents=True)
    return folder


def test_a_link_that_comes_into_a_sandbox_after_a_look_at_it_reaches_nothing(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, victim, real = root_file_system(tmp_path / "root"), tmp_path / "victim", sandbox.digest
    (root / "etc" / "hosts").write_text("of the sandbox")
    victim.write_text("kept")
    victim.chmod(0o600)

    def swapped(*words: Any) -> Any:
        (root / "etc" / "hosts").unlink()
        (root / "etc" / "hosts").symlink_to(victim)
        return real(*words)

    monkeypatch.setattr(sandbox, "digest", swapped)
    with pytest.raises(VerificationError, match="in the place of etc/hosts"):
        place.runner().prepare(ImageSource(SourceKind.SIF, str(root)))
    assert (victim.read_text(), stat.S_IMODE(victim.stat().st_mode)) == ("kept", 0o600)
    assert place.kept() == place.work() == []


def test_what_changes_in_a_sandbox_while_it_is_copied_is_not_converted(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, real = root_file_system(tmp_path / "root"), convert.helper

    def changed(*words: Any) -> None:
        (root / "new").touch()
        real(*words)

    monkeypatch.setattr(convert, "helper", changed)
    with pytest.raises(VerificationError, match="changed while it was copied"):
        place.runner().prepare(ImageSource(SourceKind.SIF, str(root)))
    assert place.kept() == place.work() == []


def test_pipes_and_devices_where_the_engine_writes_are_refused(tmp_path: Path) -> None:
    for path in special_files(tmp_path / "special"):
        root = root_file_system(tmp_path / path.name)
        path.rename(root / "etc" / "resolv.conf")
        with pytest.raises(VerificationError, match=r"in the place of etc/resolv\.conf"):
            sandbox.refuse_links(root)


def test_a_sif_that_others_can_write_is_copied(place: Any, sif: Path, tmp_path: Path) -> None:
    """Its owner could change it between its verification and its use."""
    image = tmp_path / "image.sif"
    image.write_bytes(sif.read_bytes())
    image.chmod(0o666)
    prepared = place.runner().prepare(ImageSource(SourceKind.SIF, str(image)))
    kept = Path(prepared.reference)
    assert not kept.is_symlink() and kept.read_bytes() == image.read_bytes()
    image.chmod(0o644)
    if os.geteuid() == 0:
        other = tmp_path / "other.sif"
        other.write_bytes(sif.read_bytes() + b"\0")
        os.chown(other, 4321, 1234)
        assert not Path(place.runner().prepare(ImageSource(SourceKind.SIF, str(other))).reference).is_symlink()


def test_a_sif_with_many_large_parts_takes_little_memory(tmp_path: Path) -> None:
    path, count, size = tmp_path / "image.sif", 64, 4 << 20
    header = struct.Struct("<32s10s3s3s16s8q")
    descriptor = struct.Struct("<i?III7q128s384s")
    start = header.size + (count + 1) * descriptor.size
    system = struct.pack("<ii", 1, 2).ljust(384, b"\0")
    with path.open("wb") as stream:
        numbers = (0, 0, 0, count + 1, header.size, start - header.size, start, size)
        stream.write(header.pack(b"", b"SIF_MAGIC\0", b"01\0", b"02\0", b"", *numbers))
        for kind in (0x4004, *[0x4001] * count):
            stream.write(descriptor.pack(kind, True, 1, 1, 0, start, size, size, 0, 0, 0, 0, b"x", system))
        stream.truncate(start + size)
    tracemalloc.start()
    try:
        sif_format.describe(path)
        assert tracemalloc.get_traced_memory()[1] < 16 * size
    finally:
        tracemalloc.stop()


def test_an_account_without_a_name_and_home(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*args: Any) -> Any:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert login(place.context(), "host:5000") is None
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    assert "4000000 has no range" in doctor.fakeroot(tmp_path).found


def test_what_others_run_is_not_ended(tmp_path: Path) -> None:
    """Root sees everybody's processes: those that look as if an engine had left them are ended only if they are its."""
    if os.geteuid() != 0:
        return  # the kernel shows nobody else's
    inner = 'exec -a squashfuse_ll sh -c "echo; read -r line" /mnt/session/rootfs'
    for account, ended in ((0, True), (4321, False)):
        words = ["unshare", "--mount", "setpriv", "--reuid", str(account), "bash", "-c", inner]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline()
            name = Path(f"/proc/{process.pid}/cmdline")
            assert b"/mnt/session" in name.read_bytes()
            assert (process.pid in set(leftovers.forgotten())) is ended
            process.communicate(b"")


@pytest.mark.parametrize("name", ["a,b", 'a"b', "it's", " lead,'\" and trail "])
def test_a_site_of_any_name_is_as_closed(tasks: Any, name: str) -> None:
    tasks.folder = tasks.folder / name

    def work() -> None:
        (tasks.folder / "logs").mkdir(parents=True)
        outcome = tasks.run("grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; pwd")
        assert [line.split() for line in outcome.tail] == [["NoNewPrivs:", "1"], ["Seccomp:", "2"], ["/"]]

    tasks.do(work)


def test_who_runs_it_and_the_network_of_this_machine_are_not_told(tasks: Any) -> None:
    def work() -> None:
        script = "cat /etc/passwd /etc/group /etc/resolv.conf; for f in passwd group; do echo x >>/etc/$f; done 2>&1"
        lines = list(tasks.run(script).tail)
        known = {"root::0:0:root:/:/bin/sh", "nobody:x:65534:65534::/:/bin/sh", "root:x:0:"}
        assert known <= set(lines)
        assert all("Read-only" in line for line in set(lines) - known if line)

    tasks.do(work)


def test_a_base_image_with_devices_is_built_on(
    place: Any, make_image: Callable[..., Any], tmp_path: Path, engine: Engine
) -> None:
    """The engine itself would wait for ever at a pipe in the place of a file that it writes."""
    root = root_file_system(tmp_path / "root")
    os.mkfifo(root / "etc" / "pipe")
    subprocess.run(
        [engine.program, "--silent", "build", "base.sif", "root"],
        check=True,
        cwd=tmp_path,
        env=engine.environment(tmp_path / "tmp", tmp_path / "cache"),
    )
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nCOPY . /etc/pipe\n")
    source = ImageSource(SourceKind.TREE, str(tree), dockerfile="Dockerfile")
    prepared = place.runner({"build_args": (f"BASE={tmp_path / 'base.sif'}",)}).prepare(source)
    listing = subprocess.check_output(
        [
            "unsquashfs",
            "-offset",
            str(sif_format.file_system(Path(prepared.reference))),
            "-ll",
            prepared.reference,
            "etc/pipe",
        ],
        text=True,
    )
    assert "etc/pipe/Dockerfile" in listing

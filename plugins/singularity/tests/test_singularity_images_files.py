"""Images from files: archives of docker save, OCI layouts, SIF files, sandboxes; converted once, kept and verified."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from medperf_singularity import convert, store
from medperf_singularity.engine import Engine

from medperf_core.entities import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import CancelledError, ExecutionError, NotFoundError, VerificationError
from medperf_core.plugin import Notice, PreparedImage, StepStarted

WRONG = f"sha256:{'0' * 64}"
ODD_NAMES = ("with blank.tar", "a:b,c.tar", "Übung-图像.tar", "-option.tar", "quote'\".tar", "oci:x@1.tar")


def archive(path: Path) -> ImageSource:
    return ImageSource(SourceKind.ARCHIVE, str(path))


def inside(place: Any, engine: Engine, prepared: PreparedImage, *words: str) -> str:
    """What a program in a prepared image writes."""
    environment = engine.context_environment(place.context())
    command = [engine.program, "-s", "exec", "--containall", prepared.reference, *words]
    return subprocess.check_output(command, env=environment, text=True, cwd="/")


@pytest.mark.parametrize("pack", ["none", "gzip", "zstd"])
def test_a_saved_image_is_converted_with_its_configuration(
    place: Any, engine: Engine, make_image: Callable[..., Any], tmp_path: Path, pack: str
) -> None:
    image = make_image(pack=pack, Entrypoint=["/bin/echo", "so"], User="1000:1000", files={"data/note": b"true"})
    file = image.save(tmp_path / "image.tar")
    prepared = place.runner().prepare(archive(tmp_path / "image.tar"), [file, image.config_identity])
    assert set(prepared.identities) == {file, image.config_identity}
    assert inside(place, engine, prepared, "cat", "/data/note") == "true"
    config = store.describe(place.context(), prepared)
    assert (config.entrypoint, config.cmd) == (("/bin/echo", "so"), ("/bin/sh",))
    assert (config.working_dir, config.user, config.architecture) == ("/data", "1000:1000", "amd64")
    assert dict(config.env) == {"PATH": "/bin", "GREETING": "good day"}
    assert prepared.command == ("/bin/echo", "so", "/bin/sh")
    assert place.work() == []


def test_a_layout_in_an_archive_has_its_manifest_as_an_identity(
    place: Any, make_image: Callable[..., Any], tmp_path: Path
) -> None:
    image = make_image(pack="gzip")
    file = image.save_layout(tmp_path / "image.tar")
    prepared = place.runner().prepare(archive(tmp_path / "image.tar"), [image.manifest_identity])
    assert set(prepared.identities) == {file, image.config_identity, image.manifest_identity}


def test_layers_that_are_links_are_followed(
    place: Any, engine: Engine, make_image: Callable[..., Any], tmp_path: Path
) -> None:
    image = make_image(files={"data/note": b"linked"})
    image.save(tmp_path / "plain.tar")
    with tarfile.open(tmp_path / "plain.tar") as old, tarfile.open(tmp_path / "image.tar", "w") as new:
        for member in old.getmembers():
            if member.name == "layer1/layer.tar":
                link = tarfile.TarInfo(member.name)
                link.type, link.linkname = tarfile.SYMTYPE, "../other/layer.tar"
                new.addfile(link)
                moved = tarfile.TarInfo("other/layer.tar")
                moved.size = member.size
                new.addfile(moved, old.extractfile(member))
            else:
                new.addfile(member, old.extractfile(member))
    prepared = place.runner().prepare(archive(tmp_path / "image.tar"), [image.config_identity])
    assert inside(place, engine, prepared, "cat", "/data/note") == "linked"


def test_a_second_prepare_converts_nothing(place: Any, make_image: Callable[..., Any], tmp_path: Path) -> None:
    image = make_image()
    image.save(tmp_path / "image.tar")
    first = place.runner().prepare(archive(tmp_path / "image.tar"))
    before = Path(first.reference).stat()
    place.events.clear()
    second = place.runner().prepare(archive(tmp_path / "image.tar"))
    assert second == first
    assert place.told(StepStarted, "Converting") == []
    assert place.told(StepStarted, "Verifying the image") == []
    assert Path(second.reference).stat() == before
    image.save_layout(tmp_path / "other.tar")  # the same image from elsewhere
    assert place.runner().prepare(archive(tmp_path / "other.tar")).reference == first.reference
    assert place.told(StepStarted, "Converting") == []


@pytest.mark.parametrize("kind", [IdentityKind.ARCHIVE, IdentityKind.CONFIG, IdentityKind.MANIFEST])
def test_a_wrong_digest_keeps_nothing(
    place: Any, make_image: Callable[..., Any], tmp_path: Path, kind: IdentityKind
) -> None:
    make_image().save_layout(tmp_path / "image.tar")
    with pytest.raises(VerificationError, match="not the recorded one"):
        place.runner().prepare(archive(tmp_path / "image.tar"), [ImageIdentity(kind, WRONG)])
    assert place.kept() == place.work() == []


def test_a_record_that_cannot_be_compared_is_refused(
    place: Any, make_image: Callable[..., Any], tmp_path: Path
) -> None:
    make_image().save(tmp_path / "image.tar")
    with pytest.raises(VerificationError, match="cannot be verified"):
        place.runner().prepare(archive(tmp_path / "image.tar"), [ImageIdentity(IdentityKind.SIF, WRONG)])


@pytest.mark.parametrize("pack", ["none", "gzip", "zstd"])
def test_layers_that_the_configuration_does_not_name_are_refused(
    place: Any, make_image: Callable[..., Any], tmp_path: Path, pack: str
) -> None:
    true, other = make_image(), make_image(pack=pack)
    forged = type(true)(true.config, other.layers)
    forged.save(tmp_path / "image.tar")
    with pytest.raises(VerificationError, match="not those that its configuration names"):
        place.runner().prepare(archive(tmp_path / "image.tar"), [true.config_identity])
    assert place.kept() == place.work() == []


def test_damaged_archives_are_refused(place: Any, make_image: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    image = make_image(pack="gzip")
    image.save(path)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], bytes(damaged), b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(VerificationError):
            place.runner().prepare(archive(path))
        assert place.kept() == place.work() == []
    with pytest.raises(NotFoundError):
        place.runner().prepare(archive(tmp_path / "none.tar"))


@pytest.mark.parametrize(
    "config",
    [
        {"Env": ["A\n=x"]},
        {"Env": "PATH=/bin"},
        {"Cmd": ["a\0b"]},
        {"Cmd": "not a list"},
        {"WorkingDir": 3},
        {"WorkingDir": "/a\nb"},
        {"User": "x" * 1000},
        {"Entrypoint": [["nested"]]},
        {"Cmd": ["x" * (200 << 10)]},
        {"Cmd": ["\ud800"]},
    ],
)
def test_hostile_configurations_are_refused(
    place: Any, make_image: Callable[..., Any], tmp_path: Path, config: dict[str, Any]
) -> None:
    make_image(**config).save(tmp_path / "image.tar")
    with pytest.raises(VerificationError, match="configuration"):
        place.runner().prepare(archive(tmp_path / "image.tar"))
    assert place.kept() == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_of_files_and_folders_work(
    engine: Engine, make_image: Callable[..., Any], tmp_path: Path, place: Any, name: str
) -> None:
    home = tmp_path / f"home {name}"
    home.mkdir()
    odd = type(place)(home, engine.program)
    image = make_image(files={"data/note": name.encode()})
    file = image.save(home / name)
    prepared = odd.runner().prepare(archive(home / name), [file])
    assert inside(place, engine, prepared, "cat", "/data/note") == name
    assert odd.work() == []


def test_s7_a_converted_image_that_was_changed_is_made_again(
    place: Any, make_image: Callable[..., Any], tmp_path: Path
) -> None:
    image = make_image()
    image.save(tmp_path / "image.tar")
    prepared = place.runner().prepare(archive(tmp_path / "image.tar"))
    sif = Path(prepared.reference)
    for damage in (tamper, cut_short, lambda path: path.unlink(), swap_record):
        damage(sif)
        place.events.clear()
        again = place.runner().prepare(archive(tmp_path / "image.tar"))
        assert place.told(Notice, "damaged"), damage
        assert place.told(StepStarted, "Converting")
        assert again.reference == prepared.reference
        store.describe(place.context(), again)


def tamper(sif: Path) -> None:
    """Change bytes behind the times that a user can set."""
    status = sif.stat()
    with sif.open("r+b") as stream:
        stream.seek(status.st_size // 2)
        stream.write(b"hostile")
    os.utime(sif, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut_short(sif: Path) -> None:
    os.truncate(sif, sif.stat().st_size // 2)


def swap_record(sif: Path) -> None:
    """Another image's record in this one's place."""
    record = json.loads((sif.parent / store.RECORD).read_text())
    record["identities"] = [f"config:{WRONG}"]
    (sif.parent / store.RECORD).write_text(json.dumps(record))


def test_a_touched_entry_is_hashed_once_and_used(place: Any, make_image: Callable[..., Any], tmp_path: Path) -> None:
    make_image().save(tmp_path / "image.tar")
    prepared = place.runner().prepare(archive(tmp_path / "image.tar"))
    os.utime(prepared.reference)
    place.events.clear()
    store.describe(place.context(), prepared)
    store.describe(place.context(), prepared)
    assert len(place.told(StepStarted, "Verifying the image")) == 1
    assert place.told(Notice, "damaged") == []


def test_an_image_changed_after_it_was_prepared_is_not_run(
    place: Any, make_image: Callable[..., Any], tmp_path: Path
) -> None:
    make_image().save(tmp_path / "image.tar")
    prepared = place.runner().prepare(archive(tmp_path / "image.tar"))
    tamper(Path(prepared.reference))
    with pytest.raises(VerificationError, match="changed after it was prepared"):
        store.describe(place.context(), prepared)
    assert place.kept() == []
    with pytest.raises(ExecutionError, match="no longer in the cache"):
        store.describe(place.context(), prepared)
    outside = PreparedImage(str(tmp_path / "image.sif"), prepared.identities, prepared.source)
    with pytest.raises(ExecutionError, match="no prepared image"):
        store.describe(place.context(), outside)


def sif_of(place: Any, make_image: Callable[..., Any], folder: Path, **config: Any) -> tuple[Path, ImageIdentity]:
    """A SIF file that the engine made of an OCI image, and its identity."""
    make_image(**config).save(folder / "for-sif.tar")
    prepared = place.runner().prepare(archive(folder / "for-sif.tar"))
    path = folder / "model, v1:2.sif"
    shutil.copyfile(prepared.reference, path)
    from medperf_core.plugin.digest import file_digest

    return path, ImageIdentity(IdentityKind.SIF, f"sha256:{file_digest(path)}")


def test_a_sif_is_verified_and_used_where_it_is(
    place: Any, engine: Engine, make_image: Callable[..., Any], tmp_path: Path
) -> None:
    path, identity = sif_of(place, make_image, tmp_path, Entrypoint=["/bin/echo"], files={"data/note": b"sif"})
    source = ImageSource(SourceKind.SIF, str(path))
    prepared = place.runner().prepare(source, [identity])
    assert prepared.identities == (identity,)
    assert Path(prepared.reference).resolve() == path
    assert store.describe(place.context(), prepared).entrypoint == ("/bin/echo",)
    assert store.describe(place.context(), prepared).working_dir == "/data"
    assert inside(place, engine, prepared, "cat", "/data/note") == "sif"
    place.events.clear()
    assert place.runner().prepare(source, [identity]) == prepared
    assert place.told(StepStarted, "Verifying") == []
    tamper(path)
    with pytest.raises(VerificationError, match="changed after"):
        store.describe(place.context(), prepared)
    with pytest.raises(VerificationError, match="not the recorded one"):
        place.runner().prepare(source, [identity])


def test_a_wrong_sif_is_refused(place: Any, make_image: Callable[..., Any], tmp_path: Path) -> None:
    path, identity = sif_of(place, make_image, tmp_path)
    before = place.kept()
    source = ImageSource(SourceKind.SIF, str(path))
    with pytest.raises(VerificationError, match="not the recorded one"):
        place.runner().prepare(source, [ImageIdentity(IdentityKind.SIF, WRONG)])
    whole = path.read_bytes()
    for content in (b"", b"#!/bin/sh\n", whole[:100], whole[:4096], whole[:40] + b"\xff" * 80 + whole[120:]):
        path.write_bytes(content)
        with pytest.raises(VerificationError):
            place.runner().prepare(source)
    assert place.kept() == before
    assert identity


def test_a_sif_of_another_file_system_is_refused(place: Any, make_image: Callable[..., Any], tmp_path: Path) -> None:
    path, _ = sif_of(place, make_image, tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<ii", 1, 2) + b"02\0")  # squashfs, primary, amd64
    data[at : at + 4] = struct.pack("<i", 2)  # ext3, which the kernel would mount as root
    path.write_bytes(data)
    with pytest.raises(VerificationError, match="squashfs"):
        place.runner().prepare(ImageSource(SourceKind.SIF, str(path)))


def test_a_sif_from_a_definition_runs_its_run_script(
    place: Any, engine: Engine, make_image: Callable[..., Any], tmp_path: Path
) -> None:
    path, _ = sif_of(place, make_image, tmp_path)
    path.rename(tmp_path / "base.sif")
    (tmp_path / "own.def").write_text("Bootstrap: localimage\nFrom: base.sif\n%runscript\n  echo own\n")
    command = [engine.program, "-q", "build", "own.sif", "own.def"]
    subprocess.check_call(command, cwd=tmp_path, env=engine.context_environment(place.context()))
    prepared = place.runner().prepare(ImageSource(SourceKind.SIF, str(tmp_path / "own.sif")))
    assert store.describe(place.context(), prepared).entrypoint == ("/.singularity.d/runscript",)


def sandbox(folder: Path) -> ImageSource:
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "data"):
        (folder / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "bin" / "busybox")
    for name in ("sh", "cat"):
        (folder / "bin" / name).symlink_to("/bin/busybox")
    (folder / "data" / "note").write_text("sandbox")
    return ImageSource(SourceKind.SIF, str(folder))


def test_a_sandbox_is_converted_and_known_by_its_files(place: Any, engine: Engine, tmp_path: Path) -> None:
    source = sandbox(tmp_path / "root: file,system")
    prepared = place.runner().prepare(source)
    assert [each.kind for each in prepared.identities] == [IdentityKind.SOURCE]
    assert inside(place, engine, prepared, "cat", "/data/note") == "sandbox"
    place.events.clear()
    assert place.runner().prepare(source, prepared.identities) == prepared
    assert place.told(StepStarted, "Converting") == []
    (Path(source.location) / "bin" / "sh").unlink()
    (Path(source.location) / "bin" / "sh").symlink_to("/bin/cat")
    with pytest.raises(VerificationError, match="not the recorded one"):
        place.runner().prepare(source, prepared.identities)


def test_a_folder_that_is_no_root_file_system_is_refused(place: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no root file system"):
        place.runner().prepare(ImageSource(SourceKind.SIF, str(tmp_path)))


def test_cancelling_ends_a_conversion_and_leaves_nothing(
    place: Any, make_image: Callable[..., Any], tmp_path: Path
) -> None:
    make_image().save(tmp_path / "image.tar")

    class Stop(list[Any]):
        def append(self, event: Any) -> None:
            super().append(event)
            if isinstance(event, StepStarted) and "Converting" in event.what:
                place.cancel.cancel()

    place.events = Stop()
    with pytest.raises(CancelledError):
        place.runner().prepare(archive(tmp_path / "image.tar"))
    assert place.kept() == place.work() == []


def test_an_archive_that_changes_after_it_was_verified_is_refused(
    place: Any, make_image: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "image.tar"
    file = make_image().save(path)

    class Change(list[Any]):
        def append(self, event: Any) -> None:
            super().append(event)
            if isinstance(event, StepStarted) and "Unpacking" in event.what:
                make_image().save(path)

    place.events = Change()
    with pytest.raises(VerificationError, match="changed while it was read"):
        place.runner().prepare(archive(path), [file])
    assert place.kept() == place.work() == []


LINKS = (
    ".singularity.d",
    ".singularity.d/env",
    ".singularity.d/runscript",
    ".singularity.d/actions/exec",
    "etc",
    "etc/hosts",
    "etc/resolv.conf",
    "var",
)
"""What the engine writes to while it converts an image."""


def linked_tar(name: str, target: Path) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for folder in list(Path(name).parents)[-2::-1]:
            entry = tarfile.TarInfo(str(folder))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, str(target)
        tar.addfile(entry)
    return data.getvalue()


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("there", [True, False], ids=["to-a-folder", "to-nothing"])
def test_no_link_of_an_image_leads_its_conversion_out(
    place: Any, engine: Engine, make_image: Callable[..., Any], tmp_path: Path, name: str, there: bool
) -> None:
    target = tmp_path / "host" / "victim"
    (target if there else target.parent).mkdir(parents=True)
    image = make_image(last=linked_tar(name, target), files={"data/note": b"runs"}, Env=["PATH=/bin"])
    image.save(tmp_path / "image.tar")
    prepared = place.runner().prepare(archive(tmp_path / "image.tar"))
    assert [path for path in (tmp_path / "host").rglob("*") if path != target] == []
    assert target.exists() == there
    assert inside(place, engine, prepared, "cat", "/data/note") == "runs"
    root = tmp_path / "sandbox"
    sandbox(root)
    place_link = root / name
    if place_link.is_dir():
        shutil.rmtree(place_link)
    place_link.parent.mkdir(parents=True, exist_ok=True)
    place_link.symlink_to(target)
    with pytest.raises(VerificationError, match="symbolic link"):
        place.runner().prepare(ImageSource(SourceKind.SIF, str(root)))
    assert [path for path in (tmp_path / "host").rglob("*") if path != target] == []


@pytest.mark.parametrize(("readable", "compressor"), [(True, 6), (False, 1)], ids=["zstd", "gzip"])
def test_zstd_is_used_only_where_this_kernel_reads_it(
    place: Any,
    engine: Engine,
    make_image: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    readable: bool,
    compressor: int,
) -> None:
    monkeypatch.setattr(convert, "_kernel_reads_zstd", lambda: readable)
    if readable and not convert.compression(engine):
        compressor = 1  # this engine, or its mksquashfs, cannot write it
    make_image().save(tmp_path / "image.tar")
    prepared = place.runner().prepare(archive(tmp_path / "image.tar"))
    data = Path(prepared.reference).read_bytes()
    at = data.index(b"hsqs")
    assert struct.unpack_from("<H", data, at + 20) == (compressor,)
    assert inside(place, engine, prepared, "cat", "/etc/hosts").startswith("127.0.0.1")

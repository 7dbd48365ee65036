"""Archives of ``docker save``: verified by bytes, loaded without their names."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import secrets
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from docker.errors import ImageNotFound
from medperf_docker.archive import exported_config

from medperf_core.entities import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import CancelledError, ExecutionError, NotFoundError, VerificationError

WRONG = "sha256:" + "b" * 64


@attrs.frozen
class Saved:
    """A saved image that is no longer in the daemon's store."""

    path: Path
    name: str
    config: ImageIdentity

    @property
    def source(self) -> ImageSource:
        return ImageSource(SourceKind.ARCHIVE, str(self.path))

    @property
    def archive(self) -> ImageIdentity:
        return archive_identity(self.path)


def archive_identity(path: Path) -> ImageIdentity:
    return ImageIdentity(IdentityKind.ARCHIVE, "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest())


def save(client: Any, names: list[str], path: Path) -> None:
    """``docker save`` of these names into one file."""
    if len(names) == 1:
        path.write_bytes(b"".join(client.get_image(names[0])))
        return
    answer = client.get(f"{client.base_url}/v{client.api_version}/images/get", params={"names": names})
    answer.raise_for_status()
    path.write_bytes(answer.content)


@pytest.fixture
def saved(client: Any, own_image: str, tmp_path: Path) -> Iterator[Saved]:
    path = tmp_path / "image, saved.tar"
    save(client, [own_image], path)
    config = client.inspect_image(own_image)["Id"]
    client.remove_image(config, force=True)
    yield Saved(path, own_image, ImageIdentity(IdentityKind.CONFIG, config))
    try:
        client.remove_image(config, force=True)
    except ImageNotFound:
        pass


def here(client: Any, name: str) -> bool:
    try:
        client.inspect_image(name)
    except ImageNotFound:
        return False
    return True


def rewrite(path: Path, changes: Mapping[str, bytes | None]) -> None:
    """Replace, add or (None) leave out files of an archive."""
    out = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            if member.name not in changes:
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
        for name, data in changes.items():
            if data is not None:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
    path.write_bytes(out.getvalue())


def manifest_of(path: Path) -> list[Any]:
    with tarfile.open(path) as tar:
        file = tar.extractfile("manifest.json")
        assert file
        return list(json.load(file))


def to_oci(path: Path, *, name: str = "localhost/hijacked:1") -> tuple[str, str]:
    """Turn a saved archive into an OCI layout without manifest.json; digests of its manifest and index."""
    entry = manifest_of(path)[0]
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data), **more}

    with tarfile.open(path) as tar:

        def data_of(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file
            return file.read()

        config = blob(data_of(entry["Config"]), "application/vnd.oci.image.config.v1+json")
        layers = [
            blob(gzip.compress(data_of(layer), 1), "application/vnd.oci.image.layer.v1.tar+gzip")
            for layer in entry["Layers"]
        ]
    manifest = blob(
        json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode(),
        "application/vnd.oci.image.manifest.v1+json",
    )
    attestation = blob(
        b'{"schemaVersion":2}', manifest["mediaType"], annotations={"vnd.docker.reference.type": "attestation-manifest"}
    )
    nested = blob(
        json.dumps({"schemaVersion": 2, "manifests": [manifest, attestation]}).encode(),
        "application/vnd.oci.image.index.v1+json",
        annotations={"io.containerd.image.name": name},
    )
    index = json.dumps({"schemaVersion": 2, "manifests": [nested]}).encode()
    path.unlink()
    with tarfile.open(path, "w") as tar:
        for member, data in {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index, **blobs}.items():
            info = tarfile.TarInfo(f"./{member}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return manifest["digest"], nested["digest"]


def test_load_and_run(site: Any, saved: Saved) -> None:
    prepared = site.runner().prepare(saved.source, [saved.archive])
    assert prepared.reference == saved.config.digest
    assert set(prepared.identities) == {saved.archive, saved.config}
    assert site.runner().run(prepared, site.request("echo ran")).tail == ("ran",)


def test_a_loaded_image_is_not_loaded_again(site: Any, saved: Saved) -> None:
    from medperf_core.plugin import StepStarted

    site.runner().prepare(saved.source, [saved.archive])
    site.runner(offline=True).prepare(saved.source, [saved.archive, saved.config])
    told = [event.what for event in site.events if isinstance(event, StepStarted)]
    assert sum("Loading" in what for what in told) == 1
    assert sum("Verifying" in what for what in told) == 2


@pytest.mark.parametrize("kind", [IdentityKind.ARCHIVE, IdentityKind.CONFIG, IdentityKind.MANIFEST])
def test_a_wrong_identity_is_refused_before_anything_is_loaded(site: Any, saved: Saved, kind: IdentityKind) -> None:
    with pytest.raises(VerificationError) as caught:
        site.runner().prepare(saved.source, [ImageIdentity(kind, WRONG)])
    assert WRONG in str(caught.value)
    if kind is not IdentityKind.MANIFEST:
        assert getattr(saved, kind.value).digest in str(caught.value)
    assert not here(site.client, saved.config.digest)


def test_both_must_be_right(site: Any, saved: Saved) -> None:
    with pytest.raises(VerificationError):
        site.runner().prepare(saved.source, [saved.archive, ImageIdentity(IdentityKind.CONFIG, WRONG)])
    registry = ImageIdentity(IdentityKind.MANIFEST, WRONG)  # of the registry's copy: saving made another manifest
    assert site.runner().prepare(saved.source, [saved.archive, registry]).reference == saved.config.digest


def test_names_in_an_archive_move_no_tag(site: Any, saved: Saved, make_image: Any) -> None:
    mine = make_image('ENTRYPOINT ["/bin/echo", "mine"]')
    before = site.id_of(mine)
    manifest = manifest_of(saved.path)
    fresh = f"localhost/medperf-test/{secrets.token_hex(4)}:evil"
    manifest[0]["RepoTags"] = [mine, fresh]
    repositories = {mine.partition(":")[0]: {"1": "0" * 64}}
    rewrite(
        saved.path, {"manifest.json": json.dumps(manifest).encode(), "repositories": json.dumps(repositories).encode()}
    )
    prepared = site.runner().prepare(saved.source, [saved.archive])
    assert prepared.reference == saved.config.digest != before
    assert site.id_of(mine) == before
    assert not here(site.client, fresh)
    site.image = mine
    assert site.runner().run(prepared, site.request("echo theirs")).tail == ("theirs",)
    assert saved.config.digest not in site.client.images(filters={"dangling": True}, quiet=True)


def test_a_config_under_a_false_name_is_known_by_its_bytes(site: Any, saved: Saved) -> None:
    manifest = manifest_of(saved.path)
    with tarfile.open(saved.path) as tar:
        file = tar.extractfile(manifest[0]["Config"])
        assert file
        config = json.load(file)
    config["config"]["Entrypoint"] = ["/bin/echo", "changed"]
    rewrite(saved.path, {manifest[0]["Config"]: json.dumps(config).encode()})
    with pytest.raises(VerificationError, match="not the recorded one"):
        site.runner().prepare(saved.source, [saved.config])
    assert not here(site.client, saved.config.digest)


def test_changed_layers_are_refused(site: Any, saved: Saved) -> None:
    layer = manifest_of(saved.path)[0]["Layers"][0]
    other = io.BytesIO()
    with tarfile.open(fileobj=other, mode="w") as tar:
        info = tarfile.TarInfo("evil")
        tar.addfile(info)
    rewrite(saved.path, {layer: other.getvalue()})
    with pytest.raises(ExecutionError):
        site.runner().prepare(saved.source, [saved.config])
    assert not here(site.client, saved.config.digest)


def test_compressed_archives(site: Any, saved: Saved) -> None:
    path = saved.path.with_suffix(".tar.gz")
    path.write_bytes(gzip.compress(saved.path.read_bytes(), 1))
    prepared = site.runner().prepare(ImageSource(SourceKind.ARCHIVE, str(path)))
    assert set(prepared.identities) == {archive_identity(path), saved.config}


def test_what_follows_the_end_of_the_tar_is_hashed_too(site: Any, saved: Saved) -> None:
    with saved.path.open("ab") as file:
        file.write(secrets.token_bytes(50_000))
    assert archive_identity(saved.path) in site.runner().prepare(saved.source).identities


def test_oci_layout(site: Any, saved: Saved) -> None:
    digests = to_oci(saved.path)
    assert all(not here(site.client, digest) for digest in digests)
    for digest in digests:
        prepared = site.runner().prepare(saved.source, [ImageIdentity(IdentityKind.MANIFEST, digest)])
        assert prepared.reference == saved.config.digest
        assert {identity.digest for identity in prepared.identities} >= {saved.config.digest, digest}
    assert not here(site.client, "localhost/hijacked:1")
    assert site.runner().run(prepared, site.request("echo ran")).tail == ("ran",)


def test_an_oci_layout_that_lies_is_refused(site: Any, saved: Saved) -> None:
    manifest, _ = to_oci(saved.path)
    rewrite(saved.path, {"./" + manifest.replace("sha256:", "blobs/sha256/"): b'{"config": {}, "layers": []}'})
    with pytest.raises(VerificationError, match="contradicts itself"):
        site.runner().prepare(saved.source)


def test_an_archive_of_two_images(site: Any, saved: Saved, make_image: Any) -> None:
    other = make_image()
    site.runner().prepare(saved.source, [saved.config])
    site.client.tag(saved.config.digest, "localhost/medperf-test/first", "1")
    both = saved.path.with_name("both.tar")
    save(site.client, ["localhost/medperf-test/first:1", other], both)
    site.client.remove_image(saved.config.digest, force=True)
    before = site.id_of(other)
    source = ImageSource(SourceKind.ARCHIVE, str(both))
    with pytest.raises(ExecutionError, match="2 images"):
        site.runner().prepare(source, [archive_identity(both)])
    assert site.runner().prepare(source, [saved.config]).reference == saved.config.digest
    assert site.id_of(other) == before
    assert not here(site.client, "localhost/medperf-test/first:1")


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\0" * 10240])
def test_what_is_no_archive(site: Any, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(VerificationError, match="not an image archive"):
        site.runner().prepare(ImageSource(SourceKind.ARCHIVE, str(path)))


def test_a_damaged_archive(site: Any, saved: Saved) -> None:
    saved.path.write_bytes(saved.path.read_bytes()[:100_000])
    with pytest.raises(VerificationError):
        site.runner().prepare(saved.source)


def test_a_member_that_is_there_twice(site: Any, saved: Saved) -> None:
    with tarfile.open(saved.path, "a") as tar:
        info = tarfile.TarInfo("manifest.json")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"[]"))
    with pytest.raises(VerificationError, match="twice"):
        site.runner().prepare(saved.source)


def test_b17_a_missing_archive(site: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"gone\.tar"):
        site.runner().prepare(ImageSource(SourceKind.ARCHIVE, str(tmp_path / "gone.tar")))


def test_cancelling_while_it_is_read(site: Any, saved: Saved) -> None:
    runner = site.runner()
    assert runner.capabilities()
    site.cancel.cancel()
    with pytest.raises(CancelledError):
        runner.prepare(saved.source, [saved.archive])
    assert not here(site.client, saved.config.digest)


def test_the_configuration_of_a_store_that_does_not_tell_it(client: Any, own_image: str) -> None:
    identifier = client.inspect_image(own_image)["Id"]
    assert exported_config(client, identifier) == identifier

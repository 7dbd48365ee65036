"""``medperf bundle``, ``medperf site key`` and ``medperf cache gc`` and ``move`` as commands."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from medperf_core.errors import (
    CancelledError,
    ConfigurationError,
    DeniedError,
    NotFoundError,
    OfflineError,
    UsageError,
    VerificationError,
)
from medperf_core.site.home import Home
from medperf_core.site.keys import KeyStore, fingerprint

from .conftest import Medperf
from .tutorial import Tutorial

# The key of RFC 8032, 7.1, test 1, and what `ssh-keygen -l` prints of it.
RFC_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
RFC_FINGERPRINT = "SHA256:bbXpuKG6zhzdmnxq256TlqzFBzRl2f6OOg722cYNbU8"


def test_the_key_is_made_after_a_question_and_stays(medperf: Medperf, home: Path, tmp_path: Path) -> None:
    no = medperf("site", "key", input="n\n")
    assert no.exit_code == CancelledError.exit_code and not (home / "keys").exists()
    nobody = medperf("site", "key")
    assert nobody.exit_code == DeniedError.exit_code and "--yes" in nobody.output
    made = medperf("site", "key", "--yes")
    assert made.exit_code == 0
    file = home / "keys" / "site.pem"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    key = KeyStore(Home(home)).read()
    assert made.stdout.splitlines() == [key.fingerprint]
    again = medperf("site", "key", "--export", "public.pem")
    assert again.stdout.splitlines() == [key.fingerprint]
    text = (tmp_path / "public.pem").read_text()
    assert text.startswith("-----BEGIN PUBLIC KEY-----") and text == key.public_pem()
    assert medperf("site", "key", "--export", "public.pem").exit_code == UsageError.exit_code
    assert "PRIVATE" in file.read_text() and "PRIVATE" not in made.output + again.output + text


def test_a_key_that_others_may_read_is_not_used(medperf: Medperf, home: Path) -> None:
    medperf("site", "key", "--yes")
    file = home / "keys" / "site.pem"
    file.chmod(0o640)
    assert "others may read it" in medperf("site", "key").stderr
    file.chmod(0o600)
    file.write_text("-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n")
    assert "damaged" in medperf("site", "key").stderr
    file.unlink()
    file.symlink_to("/etc/passwd")
    refused = medperf("site", "key", "--yes")
    assert refused.exit_code == ConfigurationError.exit_code
    assert "symbolic links" in refused.stderr and file.is_symlink()


def test_the_fingerprint_is_the_one_that_openssh_prints() -> None:
    assert fingerprint(RFC_KEY) == RFC_FINGERPRINT


def test_trusted_keys_are_checked(medperf: Medperf) -> None:
    refused = medperf("profile", "set", "trusted_keys=SHA256:short")
    assert refused.exit_code == UsageError.exit_code and "fingerprint" in refused.stderr
    one, two = fingerprint(bytes(32)), fingerprint(RFC_KEY)
    assert medperf("profile", "set", f"trusted_keys={one},{two}").exit_code == 0
    assert json.loads(medperf("profile", "view", "--format", "json").stdout)["trusted_keys"] == [one, two]
    assert medperf("profile", "set", "--trusted-keys", two).exit_code == 0
    assert json.loads(medperf("profile", "view", "--format", "json").stdout)["trusted_keys"] == [two]


def test_from_one_site_to_another(tutorial: Tutorial, tmp_path: Path) -> None:
    file = str(tmp_path / "b.tar")
    create = ("bundle", "create", "--benchmark", "1", "--output", file)
    assert "medperf site key" in tutorial.run(*create, "--yes", code=NotFoundError.exit_code).stderr
    key = tutorial.run("site", "key", "--yes").stdout.strip()
    refused = tutorial.run(*create, input="n\n", code=DeniedError.exit_code)
    assert "demo dataset" in refused.stderr and "Send this to the file" in refused.stderr
    made = tutorial.run(*create, "--yes")
    assert "demo dataset" in made.stdout and key in made.stderr
    (entry, done) = [each for each in tutorial.json("site", "audit") if each["action"] == "create bundle"][-2:]
    assert (entry["event"], entry["approved_by"], done["event"]) == ("sending", "--yes", "acknowledged")
    tutorial.run(*create, "--yes", code=UsageError.exit_code)

    there = Tutorial(tmp_path)
    there.run("profile", "create", "island", "platform=process")
    there.run("profile", "activate", "island")
    unknown = there.run("bundle", "load", file, code=VerificationError.exit_code)
    assert f"medperf profile set trusted_keys={key}" in unknown.stderr
    there.run("profile", "set", f"trusted_keys={key}")
    loaded = there.run("bundle", "load", file)
    assert "medperf test run --offline --benchmark 1" in loaded.stderr
    (listed,) = there.json("bundle", "ls")
    assert (listed["profile"], listed["index"]["maker"]) == ("island", key)
    ran = there.run("test", "run", "--offline", "--benchmark", "1", "--model", "2", "--allow", "no-isolation")
    assert "The test passed" in ran.stderr
    there.run("cache", "gc", "--keep", "0")
    there.run("test", "run", "--offline", "--benchmark", "1", "--allow", "no-isolation")
    there.run("bundle", "remove", listed["name"][:12])
    assert there.json("bundle", "ls") == []
    for record in (tmp_path / "home" / "cache").rglob("*.json"):
        os.utime(record, (1, 1))  # what was used a moment ago stays
    gone = there.run("cache", "gc", "--keep", "0", "--format", "json")
    assert {each["sort"] for each in json.loads(gone.stdout)} >= {"file"}
    there.run("test", "run", "--offline", "--benchmark", "1", "--allow", "no-isolation", code=3)


def test_an_unsigned_one_needs_a_word(tutorial: Tutorial, tmp_path: Path) -> None:
    file = str(tmp_path / "b.tar")
    made = tutorial.run("bundle", "create", "-b", "1", "-o", file, "--unsigned", "--yes", "--platforms", "process")
    assert "not signed: sites need --allow unsigned" in made.stderr
    there = Tutorial(tmp_path)
    refused = there.run("bundle", "load", file, code=VerificationError.exit_code)
    assert "--allow unsigned" in refused.stderr
    loaded = there.run("bundle", "load", file, "--allow", "unsigned")
    assert "medperf test run --offline --benchmark 1 --allow unsigned" in loaded.stderr
    there.run("profile", "set", "platform=process", "server=")
    listed = there.run("bundle", "ls")
    assert "not signed" in listed.stdout and "is not used: nobody signed it" in listed.stderr
    test = ("test", "run", "--offline", "--benchmark", "1", "--allow", "no-isolation")
    refused = there.run(*test, code=ConfigurationError.exit_code)
    assert refused.stderr.count("nobody signed it. If you know where it comes from, add --allow unsigned") == 1
    ran = there.run(*test, "--allow", "unsigned")
    assert "Waived: unsigned (load and use a bundle that nobody signed)." in ran.stderr


def test_what_the_lists_say_offline_and_without_a_server(tutorial: Tutorial, tmp_path: Path) -> None:
    file = str(tmp_path / "b.tar")
    key = tutorial.run("site", "key", "--yes").stdout.strip()
    tutorial.run("bundle", "create", "-b", "1", "-o", file, "--yes", "--platforms", "process")
    there = Tutorial(tmp_path)
    there.run("profile", "create", "island", "platform=process", f"trusted_keys={key}")
    there.run("profile", "activate", "island")
    there.run("bundle", "load", file)
    (name,) = (each["name"] for each in there.json("bundle", "ls"))
    assert "Add --offline" in there.run("benchmark", "ls", code=ConfigurationError.exit_code).stderr
    assert "1" in there.run("benchmark", "ls", "--offline").stdout
    for kind in ("dataset", "association"):
        refused = there.run(kind, "ls", "--offline", code=OfflineError.exit_code)
        assert f"only the server knows the {kind}s" in refused.stderr
    (tmp_path / "home" / "bundles" / "island" / f"{name}.json").write_text("{}")
    listed = there.run("bundle", "ls")
    assert "damaged" in listed.stdout and f"medperf bundle remove {name[:12]}" in listed.stderr
    assert there.json("bundle", "ls")[0]["why"]
    there.run("cache", "gc")
    there.run("bundle", "load", file)
    assert there.json("bundle", "ls")[0]["index"]["benchmark"] == 1
    (tmp_path / "home" / "bundles" / "island" / f"{name}.json").write_text("{}")
    assert "which was damaged" in there.run("bundle", "remove", name[:8]).stderr
    assert there.json("bundle", "ls") == []


def test_gc_and_move(tutorial: Tutorial, tmp_path: Path) -> None:
    place = str(tmp_path / "disk")
    assert "The cache is in" in tutorial.run("cache", "ls").stderr
    before = tutorial.json("cache", "ls")
    moved = tutorial.run("cache", "move", place)
    place = f"{place}/medperf-cache"
    assert f"The cache is now in {place}: " in moved.stderr and "Reading it back" in moved.stderr
    steps = [each for each in before if each["kind"] == "step"]
    assert f"{len(steps)} kept steps were removed and not taken along" in moved.stderr
    before = [each for each in before if each not in steps]
    assert f"The cache is in {place}: " in tutorial.run("cache", "ls").stderr
    after = tutorial.json("cache", "ls")
    assert [(each["sha256"], each["kind"]) for each in after] == [(each["sha256"], each["kind"]) for each in before]
    tutorial.run("cache", "verify")
    tutorial.run("test", "run", "--benchmark", "1", "--no-cache")
    for record in (*Path(place).rglob("*.json"), *Path(place).glob("process/*")):
        an_hour_ago = record.stat().st_mtime - 3600  # what was used a moment ago stays
        os.utime(record, (an_hour_ago, an_hour_ago))
    after = tutorial.json("cache", "ls")
    same = tutorial.run("cache", "move", place, code=UsageError.exit_code)
    assert "already" in same.stderr and "Copying" not in same.stderr
    assert "Nothing is to be freed" in tutorial.run("cache", "gc").stderr
    would = tutorial.run("cache", "gc", "--keep", "0", "--dry-run", "--format", "json")
    assert len(json.loads(would.stdout)) >= len(before) and "Would free" in would.stderr
    assert tutorial.json("cache", "ls") == after
    Path(place).rename(f"{place} unmounted")
    for words in (("cache", "ls"), ("test", "run", "-b", "1"), ("cache", "gc"), ("cache", "move", str(tmp_path / "x"))):
        lost = tutorial.run(*words, code=3)
        assert place in lost.stderr and "Mount its disk" in lost.stderr
    assert not Path(place).exists()
    begun = tutorial.run("cache", "move", "--lost", str(tmp_path / "new"))
    assert "A new, empty cache" in begun.stderr and "Copying" not in begun.stderr
    assert tutorial.json("cache", "ls") == []
    for size in ("much", "-1", ""):
        tutorial.run("cache", "gc", "--keep", size, code=UsageError.exit_code)

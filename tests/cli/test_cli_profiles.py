"""``medperf profile`` on a real home."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Medperf


def test_a_profile_from_its_making_to_its_end(medperf: Medperf) -> None:
    assert (
        medperf(
            "profile",
            "create",
            "-n",
            "clinic",
            "server=embedded:/srv/medperf",
            "--platform",
            "process",
            "--allow",
            "no-isolation",
            "--allow",
            "plain-http",
            "--infer_timeout",
            "60",
        ).exit_code
        == 0
    )
    assert medperf("profile", "activate", "clinic").exit_code == 0
    assert medperf("profile", "set", "memory=4g", "--shm_size", "2g", "policy.owners=a@b.org,c@d.org").exit_code == 0
    shown = json.loads(medperf("profile", "view", "--format", "json").stdout)
    assert shown["name"] == "clinic" and shown["active"] is True
    assert (shown["server"], shown["platform"], shown["memory"], shown["shm_size"]) == (
        "embedded:/srv/medperf",
        "process",
        "4g",
        "2g",
    )
    assert shown["allow"] == ["no-isolation", "plain-http"]
    assert shown["policy"]["owners"] == ["a@b.org", "c@d.org"]
    assert shown["time_limits"] == {"infer": 60.0}
    assert medperf("profile", "delete", "clinic").exit_code == 2
    assert medperf("profile", "activate", "default").exit_code == 0
    assert medperf("profile", "delete", "clinic").exit_code == 0
    assert medperf("profile", "view", "clinic").exit_code == 5


def test_ls_marks_the_active_one(medperf: Medperf) -> None:
    medperf("profile", "create", "clinic", "--like", "default")
    medperf("profile", "activate", "clinic")
    rows = json.loads(medperf("profile", "ls", "--format", "json").stdout)
    assert {row["name"]: row["active"] for row in rows} == {"clinic": True, "default": False}
    assert medperf("profile", "ls").stdout.splitlines()[2].split()[:2] == ["clinic", "*"]


def test_another_profile_than_the_active_one_is_set(medperf: Medperf) -> None:
    medperf("profile", "create", "clinic")
    assert medperf("--profile", "clinic", "profile", "set", "platform=process").exit_code == 0
    platforms = {
        row["name"]: row["platform"] for row in json.loads(medperf("profile", "ls", "--format", "json").stdout)
    }
    assert platforms == {"clinic": "process", "default": "docker"}


def test_a_choice_that_does_not_fit_changes_nothing(medperf: Medperf, home: Path) -> None:
    medperf("profile", "set", "platform=process")
    before = (home / "config.yaml").read_text()
    done = medperf("profile", "set", "cpus=2", "memory=much")
    assert done.exit_code == 2 and "memory" in done.stderr
    assert (home / "config.yaml").read_text() == before
    assert medperf("profile", "create", "new", "memory=much").exit_code == 2
    assert medperf("profile", "view", "new").exit_code == 5


@pytest.mark.parametrize("word", ["platform=dokcer", "--platform=dokcer", "executor=cloud"])
@pytest.mark.parametrize("command", [("set",), ("create", "new")])
def test_a_backend_that_is_not_installed_is_refused(medperf: Medperf, word: str, command: tuple[str, ...]) -> None:
    done = medperf("profile", *command, word)
    assert done.exit_code == 4
    assert ("process" if "platform" in word else "local") in done.stderr.partition("Installed: ")[2]
    assert medperf("profile", "ls").stdout.count("\n") == 3


@pytest.mark.parametrize("command", [("set",), ("create", "new")])
@pytest.mark.parametrize("words", [("--server", "embedded:my reg.db"), ("server=embedded:my reg.db",)])
def test_the_path_of_a_registry_is_seen_from_here(
    medperf: Medperf, tmp_path: Path, command: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert medperf("profile", *command, *words).exit_code == 0
    shown = json.loads(medperf("profile", "view", *command[1:], "--format", "json").stdout)
    assert shown["server"] == f"embedded:{tmp_path / 'my reg.db'}"


@pytest.mark.parametrize("address", ["embedded:~/r.db", ""])
def test_other_addresses_stay_as_they_are(medperf: Medperf, address: str) -> None:
    assert medperf("profile", "set", f"server={address}").exit_code == 0
    assert json.loads(medperf("profile", "view", "--format", "json").stdout)["server"] == address


@pytest.mark.parametrize(("address", "said"), [("embedded:", "absolute path"), ("http://host/api", "plain http")])
def test_addresses_that_do_not_fit_are_refused(medperf: Medperf, address: str, said: str) -> None:
    done = medperf("profile", "set", "--server", address)
    assert done.exit_code == 2 and said in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["set"], "nothing to set"),
        (["set", "platform"], "KEY=VALUE"),
        (["set", "platfrom=x"], "Known keys"),
        (["create"], "needs a name"),
        (["activate", "nowhere"], "Known profiles"),
    ],
)
def test_wrong_words_say_what_is_known(medperf: Medperf, words: list[str], said: str) -> None:
    done = medperf("profile", *words)
    assert done.exit_code in (2, 5)
    assert said in done.stderr

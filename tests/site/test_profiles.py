"""Profiles: reading strictly, changing under a lock, keys given as text."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medperf_core.errors import ConfigurationError, MedperfError, NotFoundError, UsageError
from medperf_core.plugin.settings import SettingField
from medperf_core.site.home import Home
from medperf_core.site.profiles import PolicyRules, Profile, ProfileStore

FIELDS = (
    SettingField("docker", "shm_size", str, False, None, "", False),
    SettingField("docker", "nested", bool, False, False, "", False),
    SettingField("docker", "mirrors", str, True, (), "", False),
    SettingField("rest", "token", str, False, None, "", True),
)
IMAGE = "config:sha256:" + "a" * 64


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


@pytest.fixture
def store(home: Home) -> ProfileStore:
    return ProfileStore(home)


def test_a_new_home_has_the_default_profile_and_reading_writes_nothing(store: ProfileStore, home: Home) -> None:
    assert store.names() == ("default",)
    assert store.active_name == "default"
    assert store.get() == Profile() == store.get("default")
    assert not home.config_file.exists()


def test_create_update_activate_delete(store: ProfileStore, home: Home) -> None:
    store.create(
        "a",
        server="https://host",
        allow=("no-isolation", f"more-privileges={IMAGE}"),
        policy=PolicyRules(benchmarks=(1, 2), owners=()),
        backends={"docker": {"shm_size": "8g"}},
        time_limits={"infer": 60},
        cpus=2,
    )
    made = store.create("b", like="a", platform="singularity")
    assert made == ProfileStore(home).get("b")
    assert made.server == "https://host"
    assert made.policy == PolicyRules(benchmarks=(1, 2), owners=())
    assert made.allow == ("no-isolation", f"more-privileges={IMAGE}")
    assert made.time_limits == {"infer": 60.0}
    assert store.update("b", {"server": "", "policy": PolicyRules()}).policy == PolicyRules()
    store.activate("b")
    assert store.active_name == "b"
    assert store.get().platform == "singularity"
    with pytest.raises(UsageError, match="active"):
        store.delete("b")
    with pytest.raises(UsageError, match="cannot be deleted"):
        store.delete("default")
    store.delete("a")
    assert store.names() == ("b", "default")
    with pytest.raises(UsageError, match="already"):
        store.create("b")
    assert stat.S_IMODE(home.config_file.stat().st_mode) == 0o600


def test_b19_reading_leaves_the_file_byte_for_byte(store: ProfileStore, home: Home) -> None:
    home.config_file.write_text("# mine\nprofiles: {x: {platform: process}, empty: }\nactive: x\n")
    before = home.config_file.read_bytes()
    assert store.get().platform == "process"
    assert store.get("empty") == Profile()
    assert store.names() == ("default", "empty", "x")
    assert home.config_file.read_bytes() == before


def test_only_what_was_said_is_written(store: ProfileStore, home: Home) -> None:
    store.create("x", platform="process")
    text = home.config_file.read_text()
    assert "platform: process" in text
    assert "loglevel" not in text


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.get("nope"),
        lambda store: store.update("nope", {}),
        lambda store: store.activate("nope"),
        lambda store: store.delete("nope"),
        lambda store: store.create("new", like="nope"),
        lambda store: store.set_text("nope", "platform", "x"),
    ],
)
def test_unknown_profiles_list_the_known(store: ProfileStore, call: Callable[[ProfileStore], object]) -> None:
    store.create("other")
    with pytest.raises(NotFoundError, match=r"'nope'.*default, other"):
        call(store)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "YAML"),
        ("- a\n", "must be a map"),
        ("profiles: [a]\n", "must be a map"),
        ("profiles: {x: {platform: 3}}\n", "platform"),
        ("profiles: {x: {platfrom: docker}}\n", "platfrom.*platform, executor"),
        ("profiles: {x: {cpus: many}}\n", "cpus"),
        ("profiles: {x: {cpus: true}}\n", "cpus"),
        ("profiles: {x: {cpus: -1}}\n", "cpus"),
        ("profiles: {x: {memory: lots}}\n", "memory.*lots"),
        ("profiles: {x: {allow: no-isolation}}\n", "allow"),
        ("profiles: {x: {allow: [everything]}}\n", "everything"),
        ("profiles: {x: {gpus: some}}\n", "some"),
        ("profiles: {x: {loglevel: loud}}\n", "loglevel"),
        ("profiles: {x: {server: 'https://me:pw@host'}}\n", "no secrets"),
        ("profiles: {x: {proxies: {https: 'http://me:pw@proxy'}}}\n", "proxies.https"),
        ("profiles: {x: {policy: {benchmarks: [a]}}}\n", "policy.benchmarks"),
        ("profiles: {x: {policy: {images: [a]}}}\n", "image identity"),
        ("profiles: {x: {time_limits: {infer: 0}}}\n", "time_limits.infer"),
        ("profiles: {x: 3}\n", "not usable"),
        ("profiles: {1: {}}\n", "not usable"),
        ("profiles: {../x: {}}\n", "../x"),
        ("active: gone\n", "gone"),
        ("other: 1\n", "other"),
        ("profiles: !!python/object/apply:os.system ['true']\n", "YAML"),
        ("a: &a [*a]\nprofiles: {x: {allow: *a}}", "not usable"),
        (b"\xff\xfe\x00", "YAML"),
    ],
)
def test_a_bad_file_is_named_with_its_key_and_never_overwritten(
    store: ProfileStore, home: Home, text: str | bytes, words: str
) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    home.config_file.write_bytes(content)
    for use in (store.get, store.names, lambda: store.create("new"), lambda: store.update("default", {"gpus": "1"})):
        with pytest.raises(ConfigurationError, match=f"(?s)config.yaml.*{words}") as caught:
            use()
        assert "unknown error" not in str(caught.value)
    assert home.config_file.read_bytes() == content


@pytest.mark.parametrize(
    ("key", "text", "field", "value"),
    [
        ("platform", "process", "platform", "process"),
        ("server", "embedded:/srv/db", "server", "embedded:/srv/db"),
        ("server", "embedded:/a b#c%20ü?/db", "server", "embedded:/a b#c%20ü?/db"),
        ("server", "embedded:~/db", "server", "embedded:~/db"),
        ("cpus", "1.5", "cpus", 1.5),
        ("processes", "10", "processes", 10),
        ("memory", "8g", "memory", "8g"),
        ("allow", "no-isolation, plain-http", "allow", ("no-isolation", "plain-http")),
        ("blocked_plugins", "x", "blocked_plugins", ("x",)),
        ("policy.owners", "a@b.org,c", "policy", PolicyRules(owners=("a@b.org", "c"))),
        ("policy.benchmarks", "1,2", "policy", PolicyRules(benchmarks=(1, 2))),
        ("policy.images", IMAGE, "policy", PolicyRules(images=(IMAGE,))),
        ("proxies.https", "http://proxy:3128", "proxies", {"https": "http://proxy:3128"}),
        ("time_limits.infer", "90", "time_limits", {"infer": 90.0}),
        ("docker.shm_size", "2g", "backends", {"docker": {"shm_size": "2g"}}),
        ("docker.shm-size", "2g", "backends", {"docker": {"shm_size": "2g"}}),
        ("docker.nested", "yes", "backends", {"docker": {"nested": True}}),
        ("docker.mirrors", "a, b", "backends", {"docker": {"mirrors": ["a", "b"]}}),
    ],
)
def test_keys_as_text_and_back_to_the_default(
    store: ProfileStore, key: str, text: str, field: str, value: object
) -> None:
    store.create("p")
    assert getattr(store.set_text("p", key, text, FIELDS), field) == value
    assert getattr(store.get("p"), field) == value
    assert store.set_text("p", key, "", FIELDS) == Profile() == store.get("p")


def test_one_text_key_leaves_its_neighbours(store: ProfileStore) -> None:
    for key, value in (
        ("policy.owners", "a"),
        ("policy.benchmarks", "3"),
        ("docker.nested", "no"),
        ("docker.shm_size", "1g"),
    ):
        store.set_text("default", key, value, FIELDS)
    profile = store.get("default")
    assert profile.policy == PolicyRules(owners=("a",), benchmarks=(3,))
    assert profile.backends == {"docker": {"nested": False, "shm_size": "1g"}}


@pytest.mark.parametrize(
    "key",
    [
        "nope",
        "docker.nope",
        "gone.host",
        "policy.nope",
        "policy",
        "backends",
        "proxies",
        "platform.x",
        "time_limits.",
        "",
    ],
)
def test_unknown_keys_list_the_known(store: ProfileStore, key: str) -> None:
    with pytest.raises(UsageError, match=r"platform, executor.*policy\.owners.*docker\.shm_size") as caught:
        store.set_text("default", key, "x", FIELDS)
    assert "rest.token" not in str(caught.value)


def test_a_secret_is_refused_and_not_repeated(store: ProfileStore, home: Home) -> None:
    with pytest.raises(UsageError, match="MEDPERF_REST_TOKEN") as caught:
        store.set_text("default", "rest.token", "hunter2", FIELDS)
    assert "hunter2" not in str(caught.value)
    assert not home.config_file.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cpus", "many"),
        ("cpus", "nan"),
        ("processes", "0"),
        ("memory", "-1"),
        ("allow", "all"),
        ("policy.benchmarks", "x"),
        ("time_limits.infer", "-3"),
        ("docker.nested", "maybe"),
        ("server", "host"),
        ("server", "https://host/with blank"),
        ("server", "http://host"),
        ("server", "http://127.0.0.1"),
        ("server", "embedded:"),
        ("server", "embedded:db"),
        ("server", "embedded:./db"),
        ("server", "embedded:/srv\n/db"),
        ("platform", "../x"),
        ("server", "https://me:pw@host"),
        ("loglevel", "loud"),
        ("gpus", "x"),
        ("allow", "no-isolation,,"),
    ],
)
def test_values_that_do_not_fit_change_nothing(store: ProfileStore, home: Home, key: str, value: str) -> None:
    with pytest.raises(MedperfError) as caught:
        store.set_text("default", key, value, FIELDS)
    assert isinstance(caught.value, (UsageError, ConfigurationError))
    assert not home.config_file.exists()


def test_fields_that_do_not_exist_or_fit_are_refused(store: ProfileStore) -> None:
    with pytest.raises(UsageError, match="no key 'platfrom'"):
        store.create("x", platfrom="docker")
    with pytest.raises(UsageError, match="platform"):
        store.create("x", platform=3)
    for name in ("../x", "", "a/b"):
        with pytest.raises(UsageError):
            store.create(name)
    assert store.names() == ("default",)


def test_b19_two_processes_that_change_profiles_lose_nothing(home: Home) -> None:
    code = (
        "import sys; from pathlib import Path; from medperf_core.site.home import Home\n"
        "from medperf_core.site.profiles import ProfileStore\n"
        f"store = ProfileStore(Home.open(Path({str(home.path)!r})))\n"
        "for number in range(15):\n"
        "    store.create(f'{sys.argv[1]}{number}')\n"
        "    store.update('default', {'time_limits': {**store.get('default').time_limits}})\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    assert set(ProfileStore(home).names()) == {"default", *(f"{n}{i}" for n in "ab" for i in range(15))}

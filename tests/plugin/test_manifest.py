"""The YAML reader: what it makes of text, and what it refuses, with where."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medperf_core.entities.checks import json_problem
from medperf_core.errors import InvalidEntityError, NotFoundError
from medperf_core.plugin import manifest as reader
from medperf_core.plugin.manifest import load_manifest, load_yaml, manifest_from_data, parse_manifest


def refusal(text: str | bytes) -> str:
    with pytest.raises(InvalidEntityError) as caught:
        load_yaml(text if isinstance(text, bytes) else text.encode(), "it.yaml")
    return str(caught.value)


@pytest.fixture(params=["c", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of PyYAML's parsers: the fast one is not built everywhere."""
    monkeypatch.setattr(reader, "_Loader", yaml.CSafeLoader if request.param == "c" else yaml.SafeLoader)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: [x, 2.5, null, ~, true, no, 'quoted', \"\\u00e9\"]\nc: {d: {e: -3}}",
        "int: [0x1F, 017, 1_000, +5]\nfloat: [1.0e+3, .5, -0.0]\nnot: [1e3, '1', '']",
        "base: &b {x: 1, y: 2}\nother: {<<: *b, y: 3}\nmany: {<<: [{x: 7}, *b]}",
        "- &a [1, 2]\n- *a\n- *a",
        "text: |\n  two\n  lines\nfolded: >\n  one\n  line\n",
        "plain text",
        "[]",
        "{}",
        "1",
        "",
        "# nothing but a comment\n",
        "---\n",
        "tagged: !!str 12",
    ],
)
@pytest.mark.usefixtures("parser")
def test_plain_yaml_is_read_as_pyyaml_reads_it(text: str) -> None:
    assert load_yaml(text.encode()) == yaml.safe_load(text)


@pytest.mark.usefixtures("parser")
def test_dates_stay_the_text_that_they_are() -> None:
    found = load_yaml(b"day: 2024-01-01\nmoment: 2024-01-01T10:00:00Z\n2024-02-02: x\ntagged: !!timestamp 2024-03-03")
    assert found == {"day": "2024-01-01", "moment": "2024-01-01T10:00:00Z", "2024-02-02": "x", "tagged": "2024-03-03"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", ["line 3, column 1", "a is there twice", "line 1"]),
        ("o:\n  i:\n    k: 1\n    k: 2", ["line 4", "o.i.k is there twice"]),
        ("a: 1\n'a': 2", ["line 2", "twice"]),
        ("1: x", ["line 1", "the key 1", "quotes"]),
        ("o: {yes: x}", ["o has the key True", "quotes"]),
        ("null: x", ["keys must be text"]),
        ("? [a]\n: x", ["a key that is a list"]),
        ("? {a: b}\n: x", ["a key that is a map"]),
        ("a: .nan", ["a holds the number nan", "JSON cannot carry"]),
        ("a: [1, -.inf]", ["a[1] holds the number -inf"]),
        ("a: 1.0e+999", ["a holds the number inf"]),
        ("a: !!binary aGk=", ["a has the tag", "binary"]),
        ("a: !!python/object/apply:os.system [id]", ["a has the tag", "os.system"]),
        ("a: !mine x", ["a has the tag '!mine'"]),
        ("a: !!set {x}", ["a has the tag"]),
        ("a: !!int many", ["a is not what its tag", "int"]),
        ("a: !!bool 1", ["a is not what its tag"]),
        ("a: 0b_", ["a is not what its tag"]),
        ("a: " + "9" * 65, ["a is a number of more than 64 characters"]),
        ("a: 1" + ":10" * 100, ["a is a number of more than 64 characters"]),
        ("a: 1\n---\nb: 2", ["line 2", "a second document"]),
        ("a:\n\t- b", ["line 2, column 1", "spaces; tabs are not allowed"]),
        ("a:\n\tb: 1", ["line 2", "spaces; tabs are not allowed"]),
        ("x: 1\na: [1, 2", ["line 2"]),
        ("a: b: c", ["line 1", "mapping values are not allowed"]),
        ("a: *nowhere", ["line 1", "an anchor that is not there"]),
        ("a: &x [*x]", ["line 1", "itself a part of"]),
        ("a: {<<: 3}", ["merges (<<)", "not a map"]),
        ("a: {<<: {}, <<: {}}", ["<< twice"]),
        ("? " + "k" * 1025 + "\n: 1", ["a key of 1025 characters"]),
        ("a: \x07", ["it.yaml"]),
        ('a: "\\UFFFFFFFF"', ["it.yaml"]),
        ('a: "\\uD800"', ["it.yaml"]),
        (b"a: caf\xe9\n", ["line 1", "not written in UTF-8"]),
        (b"# \xc3\xa9\nb: 1\nc: \xff", ["line 3", "not written in UTF-8"]),
        ("a: 1".encode("utf-16"), ["not written in UTF-8"]),
    ],
)
@pytest.mark.usefixtures("parser")
def test_what_would_be_misread_is_refused_with_its_place(text: str | bytes, words: list[str]) -> None:
    message = refusal(text)
    for word in ["it.yaml", *words]:
        assert word in message
    assert "Traceback" not in message
    assert len(message) < 1500


@pytest.mark.usefixtures("parser")
def test_all_problems_of_a_file_are_told_at_once() -> None:
    message = refusal("a: 1\na: 2\n3: x\nb: .inf\n")
    assert [line.split(":")[0].strip(" -") for line in message.splitlines()[1:]] == [
        "line 2, column 1",
        "line 3, column 1",
        "line 4, column 4",
    ]


def test_problems_without_end_are_cut() -> None:
    message = refusal("\n".join(f"{number}: x" for number in range(1000)))
    assert message.count("\n  - ") == reader.MAX_PROBLEMS


def laughs(first: str, again: str, names: str) -> str:
    """A text in which each anchor stands for several of the one before."""
    lines = [again.replace("OLD", before).replace("NEW", name) for before, name in itertools.pairwise(names)]
    return "\n".join([first, *lines])


@pytest.mark.parametrize(
    "text",
    [
        laughs("a: &a [x,x,x,x,x,x,x,x,x]", "NEW: &NEW [*OLD,*OLD,*OLD,*OLD,*OLD,*OLD,*OLD,*OLD,*OLD]", "abcdefghi"),
        laughs("a: &a {k: v, l: w}", "NEW: &NEW {x: *OLD, y: *OLD, z: [*OLD, *OLD]}", "abcdefghijklmno"),
        "t: &t '" + "x" * 500_000 + "'\nmany: [" + ",".join(["*t"] * 10_000) + "]",
        "a: &a {k: v}\nm: [" + ",".join(["{<<: [" + ",".join(["*a"] * 300) + "]}"] * 300) + "]",
    ],
    ids=["lists", "maps", "one long text", "merges"],
)
@pytest.mark.usefixtures("parser")
def test_billion_laughs_ends_early(text: str) -> None:
    started = time.monotonic()
    assert "with each alias counted as what it stands for" in refusal(text)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "? " * 50_000,
        "\n".join(" " * depth + "k:" for depth in range(900)),
    ],
)
@pytest.mark.usefixtures("parser")
def test_deep_nesting_is_refused_before_it_costs_anything(text: str) -> None:
    started = time.monotonic()
    assert re.search("nested deeper than 40 levels|maximum nesting depth", refusal(text))  # newer libyaml has its own
    assert time.monotonic() - started < 20


def test_an_alias_counts_with_the_depth_of_what_it_stands_for() -> None:
    deep = "[" * 30 + "1" + "]" * 30
    assert load_yaml(f"a: &a {deep}\nb: [[[[[*a]]]]]".encode())
    assert "nested deeper" in refusal(f"a: &a {deep}\nb: [[[[[[[[[[[*a]]]]]]]]]]]")


def test_aliases_make_copies() -> None:
    found = load_yaml(b"a: &a [1]\nb: *a")
    found["a"].append(2)
    assert found["b"] == [1]


def test_size_limits(tmp_path: Path) -> None:
    assert "larger than 1 MiB" in refusal(b"#" * (reader.MAX_BYTES + 1))
    assert load_yaml(b"#" * reader.MAX_BYTES) is None
    assert "more than 100000 values" in refusal("[" + "1," * reader.MAX_NODES + "]")
    large = tmp_path / "large.yaml"
    with large.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InvalidEntityError, match="larger than 1 MiB"):
        load_yaml(large)


def test_a_long_key_above_many_values_costs_no_memory() -> None:
    started = time.monotonic()
    inner = ",".join(f"k{number}: .nan" for number in range(18))
    text = "{" + ": {".join("x" * 1000 + str(depth) for depth in range(38)) + ": {" + inner + "}" * 39
    assert refusal(text).count("holds the number nan") == 18
    assert time.monotonic() - started < 5


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match=r"none\.yaml does not exist"):
            load_yaml(tmp_path / "none.yaml")

    def test_what_a_container_wrote_may_not_be_a_link(self, tmp_path: Path) -> None:
        """A task that writes a link as its results must not have another file of this machine read and sent."""
        (tmp_path / "secret.yaml").write_text("patient: name\n")
        (tmp_path / "results.yaml").symlink_to("secret.yaml")
        with pytest.raises(InvalidEntityError, match="symbolic link"):
            load_yaml(tmp_path / "results.yaml")
        assert load_yaml(tmp_path / "results.yaml", follow_links=True) == {"patient": "name"}

    def test_nor_a_pipe_or_folder(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "results.yaml")
        with pytest.raises(InvalidEntityError, match="is not a file"):
            load_yaml(tmp_path / "results.yaml")
        with pytest.raises(InvalidEntityError, match="not a file"):
            load_yaml(tmp_path)

    def test_the_error_names_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "parameters.yaml"
        path.write_text("a: 1\na: 2\n")
        with pytest.raises(InvalidEntityError, match=r"parameters\.yaml is not usable"):
            load_yaml(path)
        with pytest.raises(InvalidEntityError, match=r"^the results of infer is not usable"):
            load_yaml(path, "the results of infer")


class TestManifests:
    def test_lines_are_kept_by_place(self, tmp_path: Path) -> None:
        path = tmp_path / "mlcube.yaml"
        path.write_text(
            "\ufeffname: x\ntasks:\n  infer:\n    parameters:\n      inputs: {data_path: data/}\n"
            "list:\n- a: 1\n- b: 2\n"
        )
        found = load_manifest(path)
        assert found.base == tmp_path
        assert found.name == str(path)
        assert found.at("tasks.infer.parameters") == "tasks.infer.parameters (line 4)"
        assert found.lines["tasks.infer.parameters.inputs.data_path"] == 5
        assert found.lines["list[1].b"] == 8
        assert found.at("tasks.other") == "tasks.other"

    @pytest.mark.parametrize("text", ["", "- a\n", "text", "3", "true"])
    def test_must_hold_a_map(self, text: str) -> None:
        with pytest.raises(InvalidEntityError, match="a manifest is a map"):
            parse_manifest(text.encode(), name="m")

    def test_from_a_server(self) -> None:
        data: dict[str, Any] = {"name": "x", "tasks": {"infer": {}}}
        found = manifest_from_data(data, "container 7", project=Path("/somewhere"))
        assert (found.data, found.base, found.lines, found.project) == (data, None, {}, Path("/somewhere"))
        data["tasks"]["infer"]["new"] = 1
        assert found.data["tasks"] == {"infer": {}}, "the manifest must not change with the entity"

    @pytest.mark.parametrize(
        "data",
        [
            {"a": math.nan},
            {"a": {1: 2}},
            {"a": object()},
            {"a": b"x"},
            {"a": [0] * 200_000},
            {"k" * 2000: 1},
            {"a": "x" * (reader.MAX_TEXT + 1)},
        ],
    )
    def test_from_a_server_with_too_much(self, data: dict[str, Any]) -> None:
        with pytest.raises(InvalidEntityError, match="The manifest of container 7 h"):
            manifest_from_data(data, "container 7")

    def test_from_a_server_too_deep(self) -> None:
        data: dict[str, Any] = {}
        for _ in range(5000):
            data = {"a": data}
        with pytest.raises(InvalidEntityError, match="nested deeper"):
            manifest_from_data(data, "container 7")


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=10), inner, max_size=4)
    ),
    max_leaves=25,
)
indicators = st.text(st.sampled_from("[]{}:-,?&*!|>'\"%#@`<~ab1. \n\t\\=0x_/\ufeff\x85\u2028\x00"), max_size=60)


@settings(deadline=None, max_examples=150)
@given(plain)
def test_what_was_dumped_comes_back(value: Any) -> None:
    assert load_yaml(yaml.safe_dump(value).encode()) == value


@settings(deadline=None, max_examples=400)
@given(indicators | st.text(max_size=60), st.booleans())
def test_any_text_is_read_or_refused(text: str, fast: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_Loader", yaml.CSafeLoader if fast else yaml.SafeLoader)
        try:
            found = load_yaml(text.encode("utf-8", "surrogatepass"))
        except InvalidEntityError as error:
            assert len(str(error)) < 3000
        else:
            assert json_problem(found) is None
            json.dumps(found).encode()


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        load_yaml(content)
    except InvalidEntityError:
        pass

"""Tables, JSON and YAML; and what is shown before it is sent."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medperf_core.cli.approver import presentation
from medperf_core.cli.jsontext import indented
from medperf_core.cli.output import Format, cell, print_list, print_one
from medperf_core.cli.results import flat
from medperf_core.cli.table import render
from medperf_core.cli.text import columns, fold, printable
from medperf_core.entities import Association, Dataset
from medperf_core.entities.codec import to_data

from .conftest import Medperf

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
SPACE_OUTSIDE_STRINGS = re.compile(r'("(?:[^"\\]|\\.)*")|\s+')


@given(JSON)
def test_laid_out_json_has_every_token_and_no_other(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, separators=(",", ":"))):
        laid_out = indented(text)
        assert SPACE_OUTSIDE_STRINGS.sub(r"\1", laid_out) == SPACE_OUTSIDE_STRINGS.sub(r"\1", text)
        assert json.loads(laid_out) == value


def test_laid_out_json_keeps_what_a_parser_would_lose() -> None:
    text = r'{"a":1.0e+05,"a":-0,"b":"\u0041 , : {}","c":[]}'
    assert indented(text) == '{\n  "a": 1.0e+05,\n  "a": -0,\n  "b": "\\u0041 , : {}",\n  "c": []\n}'


def test_a_submission_is_shown_word_for_word() -> None:
    body = json.dumps({"name": "my-model", "metadata": {"sources": [1, 2]}, "text": "x" * 80}).encode()
    shown = presentation("create model: model my-model", "embedded:/srv", body)
    assert "create model: model my-model" in shown
    assert "To: embedded:/srv" in shown
    assert f"{len(body)} bytes" in shown
    for word in ('"name": "my-model"', '"sources": [', "x" * 80):
        assert word in shown


def test_short_and_other_bodies_are_shown_as_they_are() -> None:
    assert presentation("a", "b", b'{"state":"OPERATION"}').endswith(':\n{"state":"OPERATION"}')
    assert presentation("a", "b", b"no json\xff").endswith(":\nno json\\xff")


def test_files_to_upload_are_shown_as_their_list_and_no_word_says_that_it_is_sent() -> None:
    body = json.dumps([{"file": "weights\x1b.bin", "from": "/home/me/weights", "size": 7}]).encode()
    shown = presentation("upload: 1 file, 7 bytes", "s3://bucket/models", body)
    assert shown.startswith("About to upload: 1 file, 7 bytes\nTo: s3://bucket/models\n[\n")
    assert '"from": "/home/me/weights"' in shown and "\x1b" not in shown
    assert "Content" not in shown and "sent" not in shown


def test_a_body_cannot_play_with_the_terminal() -> None:
    body = json.dumps({"name": "evil\x1b[2K\u202emodel\U000e0001"}, ensure_ascii=False).encode()
    shown = presentation("a\x1b[1A", "b\r", body)
    assert "\x1b" not in shown and "\u202e" not in shown and "\r" not in shown
    assert "\\u202emodel\\udb40\\udc01" in shown


def test_printable_leaves_ordinary_text_alone() -> None:
    assert printable("Zürich, 北京\n\tπ") == "Zürich, 北京\n\tπ"


def test_wide_cells_are_folded_and_uids_are_not() -> None:
    uid = "0123456789abcdef" * 2
    text = render(("Report", "Text"), [(uid, "many words " * 20)], width=60)
    lines = text.split("\n")
    assert max(map(columns, lines)) <= 60
    assert lines[2].startswith(uid)
    assert " ".join(" ".join(line[len(uid) :] for line in lines[2:]).split()) == ("many words " * 20).strip()


def test_times_and_hashes_are_not_broken_wherever_they_stand() -> None:
    time, digest = "2026-11-24 12:36:22Z", "config:sha256:" + "a1" * 32
    text = render(("A", "B", "C", "D"), [("x " * 40, time, "y " * 40, f"created\n{digest}")], width=60, whole=())
    assert time in text and digest in text
    assert max(map(columns, text.split("\n"))) == 12 + len(time) + 12 + len(digest) + 6


@pytest.mark.parametrize("text", ["2026-11-24T12:36:22.123456Z", "2026-11-24T12:36:22Z", "2026-11-24T12:36:22+00:00"])
def test_times_are_shown_to_the_second(text: str) -> None:
    assert cell(text) == "2026-11-24 12:36:22Z"


@pytest.mark.parametrize("text", ["2026-11-24T12:36:22+01:00", "at 2026-11-24T12:36:22Z", "2026-11-24", "yesterday"])
def test_other_texts_are_no_times(text: str) -> None:
    assert cell(text) == text


@given(st.text(alphabet=st.characters(exclude_categories=["C", "Z"]) | st.just(" ")), st.integers(2, 30))
def test_folding_loses_no_letter(text: str, width: int) -> None:
    lines = fold(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(columns(line) <= width for line in lines)


THINGS = [Association(id=7, benchmark=1, model=4), Association(id=8, benchmark=1, dataset=2)]
COLUMNS = (("UID", lambda item: item.id), ("Model", lambda item: item.model))


def test_lists_in_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    print_list(THINGS, COLUMNS, Format.JSON, empty="none")
    assert json.loads(capsys.readouterr().out) == [to_data(item) for item in THINGS]
    print_list(THINGS, COLUMNS, Format.YAML, empty="none")
    assert yaml.safe_load(capsys.readouterr().out) == [to_data(item) for item in THINGS]
    print_list(THINGS, COLUMNS, Format.TABLE, empty="none")
    assert capsys.readouterr().out == "UID  Model\n---  -----\n7    4\n8    -\n"


def test_an_empty_list_is_data_for_programs_and_a_sentence_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    print_list([], COLUMNS, Format.JSON, empty="There are none.")
    assert capsys.readouterr() == ("[]\n", "")
    print_list([], COLUMNS, Format.TABLE, empty="There are none.")
    assert capsys.readouterr() == ("", "There are none.\n")


def test_one_thing_in_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    thing = Dataset(
        id=3,
        name="d",
        input_data_hash="a",
        generated_uid="b",
        data_preparation_mlcube=1,
        generated_metadata={"cases": 5, "note": "\x1b[31m"},
    )
    print_one(thing, Format.JSON)
    assert json.loads(capsys.readouterr().out) == to_data(thing)
    print_one(thing, Format.YAML)
    assert yaml.safe_load(capsys.readouterr().out) == to_data(thing)
    print_one(thing, Format.TABLE)
    out = capsys.readouterr().out
    assert re.search(r"^generated_metadata\s+cases: 5$", out, re.MULTILINE)
    assert "\x1b" not in out


def test_results_become_rows() -> None:
    rows = list(flat({"auc": {"value": 0.912345678, "ci": [0.9, 0.95]}, "n": 12, "ok": True, "empty": {}}))
    assert rows == [("auc.value", "0.912346"), ("auc.ci", "[0.9, 0.95]"), ("n", "12"), ("ok", "yes"), ("empty", "{}")]


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_only_data_goes_to_standard_output(medperf: Medperf, output: str) -> None:
    done = medperf("plugin", "ls", "--format", output)
    assert done.exit_code == 0
    records = yaml.safe_load(done.stdout)
    assert {"name", "version", "distribution", "status", "reason", "provides"} == set(records[0])


def test_a_table_that_is_piped_has_no_escapes_and_is_not_folded(medperf: Medperf) -> None:
    done = medperf("plugin", "ls", COLUMNS="20")
    assert "\x1b" not in done.stdout
    assert re.search(r"^process +0\.1\.0 +medperf-core +loaded +runner process$", done.stdout, re.MULTILINE)

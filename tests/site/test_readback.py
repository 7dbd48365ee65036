"""What was uploaded is read once more; parts that do not belong together are not taken for a changed file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from medperf_core.errors import VerificationError
from medperf_core.plugin import BackendContext, Event, FetchInfo, FetchRequest, Notice
from medperf_core.plugin.storage import Sink, Storage
from medperf_core.site.readback import read_back

GOOD, BAD = b"good content", b"mixed conten"


class Store(Storage):
    """Gives other bytes each time.

    Attributes:
        asked: whether each time all was to come in one answer.
    """

    def __init__(self, *answers: bytes, joined: bool) -> None:
        self.answers, self.joined = list(answers), joined
        self.asked: list[bool] = []

    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        self.asked.append(request.whole)
        sink.write(self.answers.pop(0))
        return FetchInfo(joined=self.joined and not request.whole)


def run(store: Store, tmp_path: Path) -> list[Event]:
    told: list[Event] = []
    context = BackendContext(tmp_path, tmp_path, emit=told.append)
    read_back(store, "https://host/a?token=x", len(GOOD), hashlib.sha256(GOOD).hexdigest(), context)
    return told


def test_parts_that_do_not_fit_are_asked_for_once_more_in_one_piece(tmp_path: Path) -> None:
    store = Store(BAD, GOOD, joined=True)
    [notice] = run(store, tmp_path)
    assert isinstance(notice, Notice) and "https://host/a came in several parts" in notice.message
    assert store.asked == [False, True]


def test_what_is_wrong_in_one_piece_too_is_an_error(tmp_path: Path) -> None:
    store = Store(BAD, BAD, joined=True)
    with pytest.raises(VerificationError, match="is not what was uploaded"):
        run(store, tmp_path)
    assert store.asked == [False, True]


def test_what_came_in_one_piece_or_is_right_is_asked_for_once(tmp_path: Path) -> None:
    store = Store(BAD, joined=False)
    with pytest.raises(VerificationError):
        run(store, tmp_path)
    assert store.asked == [False]
    good = Store(GOOD, joined=True)
    assert run(good, tmp_path) == []
    assert good.asked == [False]

"""A hash that is taken beside is the hash of what came, in order, whatever the pieces were."""

from __future__ import annotations

import hashlib
import random
import threading
from typing import Any

import pytest

from medperf_core.site.side_hash import PIECE, WAITING, SideHash

NOISE = random.Random(6).randbytes(9 * PIECE + 77)


@pytest.mark.parametrize("sizes", [(1000, 7, PIECE), (PIECE,), (PIECE - 1, PIECE + 1), (3 * PIECE, 0, 1)])
def test_pieces_of_any_size_give_the_same_hash(sizes: tuple[int, ...]) -> None:
    noise, start = random.Random(7), 0
    with SideHash() as digest:
        while start < len(NOISE):
            size = noise.choice(sizes)
            digest.update(NOISE[start : start + size])
            start += size
        assert digest.hexdigest() == hashlib.sha256(NOISE).hexdigest()


def test_hash_can_be_asked_for_in_between() -> None:
    with SideHash() as digest:
        assert digest.hexdigest() == hashlib.sha256().hexdigest()
        digest.update(NOISE[: 2 * PIECE + 5])
        assert digest.hexdigest() == hashlib.sha256(NOISE[: 2 * PIECE + 5]).hexdigest()
        digest.update(NOISE[2 * PIECE + 5 :])
        assert digest.hexdigest() == digest.hexdigest() == hashlib.sha256(NOISE).hexdigest()


def test_buffer_that_is_used_again_does_no_harm() -> None:
    buffer: Any = bytearray(PIECE)
    with SideHash() as digest:
        for start in range(0, 9 * PIECE, PIECE):
            buffer[:] = NOISE[start : start + PIECE]
            digest.update(buffer)
            buffer[:] = bytes(PIECE)
        assert digest.hexdigest() == hashlib.sha256(NOISE[: 9 * PIECE]).hexdigest()


class Held:
    """A hash that gets on when a test says so."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def update(self, data: bytes) -> None:
        self.go.wait(30)


def test_who_brings_more_than_can_be_hashed_waits() -> None:
    digest, held = SideHash(), Held()
    vars(digest)["_digest"] = held
    brought: list[int] = []

    def bring() -> None:
        for number in range(50):
            digest.update(NOISE[:PIECE])
            brought.append(number)

    bringer = threading.Thread(target=bring)
    bringer.start()
    bringer.join(0.5)
    assert len(brought) <= WAITING + 1
    held.go.set()
    bringer.join(30)
    assert len(brought) == 50
    digest.close()


def test_thread_ends_also_when_nobody_asks_for_the_hash() -> None:
    before = threading.active_count()
    digest = SideHash()
    digest.update(NOISE)
    assert threading.active_count() == before + 1
    digest.close()
    digest.close()
    assert threading.active_count() == before

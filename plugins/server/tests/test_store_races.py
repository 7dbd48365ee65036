"""Writers in processes of their own, all at once: names stay unique and a request gets one answer."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from typing import Any

import pytest
from medperf_server.store import Store

from medperf_core.entities import Association, Benchmark, Container, Model, State, User
from medperf_core.errors import MedperfError
from medperf_core.plugin import Party

WRITERS, ROUNDS = 4, 12
CONTEXT = multiprocessing.get_context("spawn")


def submit(database: str, writer: int, start: Any, answers: Any) -> None:
    """Try all the names in turn, against the other writers."""
    opened = Store(database)
    user = opened.people()[writer]
    start.wait()
    for number in range(ROUNDS):
        draft = Container(name=f"c{number}", container_config={"of": writer, "number": number}, image_hash="sha256:x")
        answers.put(outcome(lambda draft=draft: opened.create(user, draft).name))
    opened.close()


def answer(database: str, writer: int, start: Any, answers: Any) -> None:
    """Approve (even writers) or reject (odd ones) every request, against the other writers."""
    opened = Store(database)
    user = opened.people()[0]
    word = "REJECTED" if writer % 2 else "APPROVED"
    start.wait()
    for number in range(1, ROUNDS + 1):
        answers.put(
            outcome(
                lambda number=number: (
                    opened.update_association(
                        user, Party.MODEL, number, 1, {"approval_status": word}
                    ).approval_status.value
                    + f" {number}"
                )
            )
        )
    opened.close()


def create_tables(database: str, writer: int, start: Any, answers: Any) -> None:
    start.wait()
    answers.put(outcome(lambda: f"{len(Store(database).people())} user"))


def outcome(work: Any) -> str:
    try:
        return work()
    except MedperfError as error:
        return f"{type(error).__name__}: {error}"


def race(work: Any, database: str, rounds: int) -> Counter[str]:
    """What the writers were told, by how often."""
    start, answers = CONTEXT.Barrier(WRITERS), CONTEXT.Queue()
    workers = [CONTEXT.Process(target=work, args=(database, number, start, answers)) for number in range(WRITERS)]
    for worker in workers:
        worker.start()
    told = Counter(answers.get(timeout=120) for _ in range(rounds * WRITERS))
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    return told


@pytest.mark.timeout(300)
def test_one_of_all_gets_each_name_and_the_others_are_told_why(store, people, database):
    told = race(submit, database, ROUNDS)
    for number in range(ROUNDS):
        assert told.pop(f"c{number}") == 1
    assert sum(told.values()) == (WRITERS - 1) * ROUNDS
    assert all(words.startswith("RefusedError") and "already" in words for words in told), told
    uids = [each.uid for each in store.list(people["mo"], Container)]
    assert len(uids) == ROUNDS and len(set(uids)) == ROUNDS


@pytest.mark.timeout(300)
def test_a_request_gets_one_answer(store, people, database, make):
    for name in ("prep", "metrics"):
        store.create(people["bo"], make.container(name, state=State.OPERATION))
    for number in range(ROUNDS):
        store.create(people["mo"], make.model(f"m{number}", state=State.OPERATION))
    store.create(people["bo"], make.benchmark("b", state=State.OPERATION))
    store.update(people["admin"], Benchmark, 1, {"approval_status": "APPROVED"})
    for number in range(1, ROUNDS + 1):
        store.create(people["mo"], Association(benchmark=1, model=number))
    told = race(answer, database, ROUNDS)
    kept = {each.model: each.approval_status for each in store.associations(people["bo"], Party.MODEL)}
    assert len(kept) == ROUNDS == len(list(store.list(people["mo"], Model)))
    for number, status in kept.items():
        assert told.pop(f"{status} {number}") == 1
    assert sum(told.values()) == (WRITERS - 1) * ROUNDS
    assert all("only a pending request can be answered" in words for words in told), told


@pytest.mark.timeout(120)
def test_a_registry_is_made_once(database):
    assert race(create_tables, database, 1) == {"1 user": WRITERS}
    assert [user.username for user in Store(database).people()] == [User(username="admin").username]

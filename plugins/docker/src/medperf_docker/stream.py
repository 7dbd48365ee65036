"""Long answers of the daemon: pulls, loads and builds, told as events and given up when the work is cancelled."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from medperf_core.errors import CancelledError
from medperf_core.plugin import BackendContext, Progress
from medperf_docker.connect import Client, Connection, engine_error

POLL_SECONDS = 0.1
PROGRESS_SECONDS = 0.25


Stopped = threading.Event
"""Set when nobody waits for the work any more."""


def messages(
    connection: Connection, context: BackendContext, doing: str, call: Callable[[Client, Stopped], Iterable[Any]]
) -> Iterator[Mapping[str, Any]]:
    """The daemon's messages about a long piece of work.

    The work is done in a thread, because a daemon may be silent for long before its first word. Its connection is
    cut when this generator ends before it does, or the context's cancel token is set: the daemon then gives up too.

    Args:
        doing: the work, to follow "Docker could not".
        call: starts it, with a client without time limits; what it sends must end when the flag is set.

    Raises:
        ExecutionError: the daemon told an error.
        CancelledError: the token was set.
    """
    context.cancel.raise_if_cancelled()
    told: queue.Queue[Any] = queue.Queue()
    stopped = Stopped()
    answers: list[Any] = []
    end = object()

    def remember(answer: Any, **_: Any) -> None:
        answers.append(answer)
        if stopped.is_set():
            cut(answers)

    def work(client: Client) -> None:
        try:
            for message in call(client, stopped):
                told.put(message)
            told.put(end)
        except Exception as error:  # raised again by the thread that waits
            told.put(error)

    with connection.client(doing, patient=True) as client:
        client.hooks["response"].append(remember)
        threading.Thread(target=work, args=(client,), daemon=True).start()
        try:
            while True:
                if context.cancel.cancelled:
                    raise CancelledError(f"Docker was interrupted while it was to {doing}.")
                try:
                    message = told.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                if message is end:
                    return
                if isinstance(message, Exception):
                    raise message
                if isinstance(message, dict):
                    yield message
        finally:
            stopped.set()
            cut(answers)


def checked(stream: Iterable[Mapping[str, Any]], doing: str) -> Iterator[Mapping[str, Any]]:
    """The same messages.

    Raises:
        ExecutionError: one of them tells an error.
    """
    for message in stream:
        if message.get("error"):
            raise engine_error(doing, str(message["error"]))
        yield message


def cut(answers: Iterable[Any]) -> None:
    """End the connections of answers that are still being read."""
    from docker.types import CancellableStream

    for answer in answers:
        with suppress(Exception):  # it has ended by itself
            CancellableStream(iter(()), answer).close()


class LayerProgress:
    """Adds up the bytes that a pull reports per layer."""

    def __init__(self, what: str, emit: Callable[[Any], None]) -> None:
        self._what, self._emit = what, emit
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}
        self._told = 0.0

    def take(self, message: Mapping[str, Any]) -> None:
        """Take one message; tells the sum now and then."""
        layer, detail = str(message.get("id", "")), message.get("progressDetail") or {}
        total = detail.get("total")
        if message.get("status") == "Downloading" and isinstance(total, int) and total > 0:
            self._total[layer], self._done[layer] = total, int(detail.get("current") or 0)
        elif message.get("status") in ("Download complete", "Pull complete"):
            self._done[layer] = self._total.get(layer, 0)
        else:
            return
        if time.monotonic() - self._told > PROGRESS_SECONDS and self._total:
            self._told = time.monotonic()
            self._emit(Progress(self._what, sum(self._done.values()), sum(self._total.values())))

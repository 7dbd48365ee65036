"""A door on 127.0.0.1 before a real server: it counts connections and cuts them where a test says so."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

LOOPBACK = "127.0.0.1"


class Relay:
    """Passes bytes on, encrypted or not, between a client and the server behind it.

    Attributes:
        connections: how many were taken so far.
        cuts: how many were cut so far.
        sent: bytes that the server sent so far.
        received: bytes that clients sent so far.
        on_cut: called before a connection is cut.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.cuts = 0
        self.sent = 0
        self.received = 0
        self.on_cut: Callable[[], None] = lambda: None
        self._listeners: list[socket.socket] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._after = self._times = self._left = 0

    def front(self, port: int, host: str = LOOPBACK) -> int:
        """The port on 127.0.0.1 that leads to a server from now on."""
        listener = socket.create_server((LOOPBACK, 0))
        self._listeners.append(listener)
        threading.Thread(target=self._serve, args=(listener, host, port), daemon=True).start()
        return int(listener.getsockname()[1])

    def cut(self, after: int, times: int) -> None:
        """Break connections off once the server has sent ``after`` more bytes; ``times`` of them."""
        with self._lock:
            self._after = self._left = after
            self._times = times

    def close(self) -> None:
        """Take no connection any more and end those there are."""
        for each in [*self._listeners, *self._open]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self, listener: socket.socket, host: str, port: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.connections += 1
                server = socket.create_connection((host, port))
                self._open |= {client, server}
                for work in ((self._pump, client, server, False), (self._pump, server, client, True)):
                    threading.Thread(target=work[0], args=work[1:], daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        cut = False
        with contextlib.suppress(OSError):
            while not cut and (data := source.recv(65536)):
                if answers:
                    data, cut = self._allowed(data)
                    self.sent += len(data)
                else:
                    self.received += len(data)
                target.sendall(data)
        if cut:
            self.cuts += 1
            self.on_cut()
        for each in (source, target) if cut else (target,):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR if cut else socket.SHUT_WR)
        if answers:
            for each in (source, target):
                self._open.discard(each)

    def _allowed(self, data: bytes) -> tuple[bytes, bool]:
        with self._lock:
            if not self._times:
                return data, False
            if len(data) < self._left:
                self._left -= len(data)
                return data, False
            kept = data[: self._left]
            self._times -= 1
            self._left = self._after
            return kept, True

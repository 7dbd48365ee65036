"""Kept connections that check whom they reached, and whose waiting ends when nobody wants their bytes any more."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import RemoteDisconnected
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context
from urllib3.util.wait import wait_for_read, wait_for_write

from medperf_core.plugin.network import Ip

LOOK = 0.2
"""Seconds after which who waits for bytes looks whether they are still wanted."""


class StaleError(RemoteDisconnected):
    """The server closed a connection that had been kept since an earlier answer."""


def pool_classes(
    check_ip: Callable[[Ip], None] | None, wanted: Callable[[], None]
) -> dict[str, type[HTTPConnectionPool]]:
    """Pools of connections, by scheme.

    Args:
        check_ip: raises if an address may not be reached. It is called after connecting, before the first byte is sent:
            a name can resolve to anything, and to something else when it is asked again, so that a look at the name or
            a look-up beforehand is not enough.
        wanted: raises if the current thread has nothing to wait for.
    """

    def checked(connected: socket.socket) -> socket.socket:
        try:
            if check_ip is not None:
                check_ip(ipaddress.ip_address(connected.getpeername()[0]))
        except BaseException:
            connected.close()
            raise
        seconds = connected.gettimeout()
        watched = Watched(connected.family, connected.type, connected.proto, connected.detach())
        watched.setblocking(False)
        watched.settimeout(seconds)
        return watched

    class Watched(socket.socket):
        """Never blocks by itself: the wait for it is here, and only where there is something to wait for."""

        seconds: float | None = None

        def settimeout(self, value: float | None, /) -> None:
            self.seconds = value

        def gettimeout(self) -> float | None:
            return self.seconds

        def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
            while True:
                with suppress(BlockingIOError):
                    return super().recv_into(buffer, nbytes, flags)
                _wait(self, wanted)

        def sendall(self, data: Any, flags: int = 0) -> None:
            _send_all(self, data, wanted)

    class Kept(HTTPConnection):
        answered = False

        def _new_conn(self) -> socket.socket:
            self.answered = False
            return checked(super()._new_conn())

        def getresponse(self) -> Any:
            try:
                response = super().getresponse()
            except ConnectionResetError:  # RemoteDisconnected is one, too
                if self.answered:
                    raise StaleError("a kept connection was closed") from None
                raise
            self.answered = True
            return response

    class Encrypted(Kept, HTTPSConnection):
        """The order is that of the methods: those of ``Kept`` come first."""

    class KeptPool(HTTPConnectionPool):
        ConnectionCls = Kept

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": KeptPool, "https": EncryptedPool}


def tls_context(authorities: str, *, folder: bool, wanted: Callable[[], None]) -> ssl.SSLContext:
    """What encrypted connections trust. Made once, since reading a system's authorities takes long.

    Args:
        authorities: a PEM file, or a folder of such files.
        wanted: raises if the current thread has nothing to wait for.

    Raises:
        OSError: it cannot be read.
    """

    class Watched(ssl.SSLSocket):
        def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
            # That there is something to read does not mean that there are bytes for us: it may be a part of them, or
            # what the encryption itself says. So reading itself has to end now and then.
            seconds = self.gettimeout()
            if self.pending() or seconds == 0:
                return super().recv_into(buffer, nbytes, flags)
            left = float("inf") if seconds is None else seconds
            try:
                while True:
                    self.settimeout(min(LOOK, left))
                    try:
                        return super().recv_into(buffer, nbytes, flags)
                    except TimeoutError:
                        left -= LOOK
                        if left <= 0:
                            raise
                        wanted()
            finally:
                self.settimeout(seconds)

        def sendall(self, data: Any, flags: int = 0) -> None:
            _send_all(self, data, wanted)

    context = create_urllib3_context()
    context.load_verify_locations(**({"capath": authorities} if folder else {"cafile": authorities}))
    context.sslsocket_class = Watched
    return context


def _send_all(connected: socket.socket, data: Any, wanted: Callable[[], None]) -> None:
    """Send all of it, as far as the other side takes it.

    Raises:
        TimeoutError: it took nothing in the socket's own time.
    """
    with memoryview(data) as whole, whole.cast("B") as left:
        position = 0
        while position < len(left):
            if isinstance(connected, ssl.SSLSocket):
                _wait(connected, wanted, wait_for_write)  # because it waits by itself
            sent = 0
            with suppress(BlockingIOError):
                sent = connected.send(left[position:])
            if not sent:
                _wait(connected, wanted, wait_for_write)
            position += sent


def _wait(
    connected: socket.socket,
    wanted: Callable[[], None],
    wait_for: Callable[[socket.socket, float], bool] = wait_for_read,
) -> None:
    """Until there is something to read, or room to write.

    Raises:
        TimeoutError: nothing came in the socket's own time.
    """
    seconds = connected.gettimeout()
    if seconds is None:
        seconds = float("inf")
    if wait_for(connected, min(LOOK, seconds)):
        return
    end = time.monotonic() + seconds - LOOK
    while True:
        wanted()
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        if wait_for(connected, min(LOOK, left)):
            return

"""All that a backend gets of the site it works for."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from medperf_core.errors import CancelledError, OfflineError
from medperf_core.plugin.events import Event


class CancelToken:
    """Tells a backend that its work is no longer wanted. Set once; safe to use from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._children: weakref.WeakSet[CancelToken] = weakref.WeakSet()

    def child(self) -> CancelToken:
        """A token of its own for a part of the work: cancelled with this one, but not the other way round."""
        token = CancelToken()
        self._children.add(token)
        if self.cancelled:
            token.cancel()
        return token

    def cancel(self) -> None:
        """Set it, and all of its children."""
        self._event.set()
        for token in list(self._children):
            token.cancel()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Raises CancelledError once the token is set."""
        if self._event.is_set():
            raise CancelledError("The work was interrupted.")

    def wait(self, seconds: float) -> bool:
        """Sleep for at most ``seconds``; true as soon as the token is set."""
        return self._event.wait(seconds)


def _no_credentials(name: str) -> Mapping[str, str] | None:
    return None


def _no_listener(event: Event) -> None:
    return None


@attrs.frozen
class BackendContext:
    """What a backend may know and use of the site.

    Attributes:
        cache_dir: for files that may be made again; the backend uses a folder of its own name below it.
        temp_dir: for the work in hand; emptied by the site after a crash.
        offline: true if no connection may be opened, not even to loopback.
        proxies: for requests: ``{"https": "http://proxy:3128"}``; empty means the environment's.
        ca_bundle: PEM file of the certificate authorities to trust; None means the system's.
        waivers: names that the person at this site allowed (``--allow``), such as ``plain-http``.
        credentials: reads the stored credentials of a name, such as a server's address; None if there are none.
        emit: tells the site what happens; never raises.
        cancel: set when the work should stop.
    """

    cache_dir: Path
    temp_dir: Path
    offline: bool = False
    proxies: Mapping[str, str] = attrs.field(factory=dict)
    ca_bundle: Path | None = None
    waivers: frozenset[str] = frozenset()
    credentials: Callable[[str], Mapping[str, str] | None] = _no_credentials
    emit: Callable[[Event], None] = _no_listener
    cancel: CancelToken = attrs.field(factory=CancelToken)

    def require_network(self, what: str) -> None:
        """Call before opening any connection.

        Args:
            what: what the connection is for, such as "fetching https://host/file".

        Raises:
            OfflineError: this site works offline.
        """
        if self.offline:
            raise OfflineError(f"Offline: {what} needs a connection.", hint="Run it once without --offline.")

"""Sends requests: to whom an address leads, by what way, over kept connections; and puts what fails into words."""

from __future__ import annotations

import base64
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import attrs
import urllib3
from urllib3.util import parse_url

from medperf_core.errors import ConfigurationError, TransferError
from medperf_core.plugin import network
from medperf_storage import __version__
from medperf_storage.addresses import AddressRefused, AddressRules
from medperf_storage.pools import StaleError, pool_classes, tls_context
from medperf_storage.reasons import reason_of
from medperf_storage.retrying import Limits, Passing

if TYPE_CHECKING:
    import ssl

    from medperf_core.plugin import BackendContext

PIECE = 1 << 18
"""Bytes that are sent at once."""

MAX_WAYS = 64
"""Servers to which connections are kept."""

MAX_CONNECTIONS = 32
"""That are kept for each server."""

PORTS = {"http": 80, "https": 443}
_ADDRESS = re.compile(r"(https?://[^\\/?#]*)([^#]*)", re.IGNORECASE)
"""As RFC 3986 has it (appendix B): what stands before the path names the server, and a backslash ends it."""


@attrs.frozen
class Server:
    """Whom an address leads to. ``host`` is as connections are made: in small letters, and IPv6 in brackets."""

    scheme: str
    host: str
    port: int

    @property
    def base(self) -> str:
        """Its address, without a slash at its end and without a port that goes without saying."""
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def server_of(url: str) -> Server:
    """The server that requests for an address are sent to.

    Raises:
        ValueError: it is not an address of something on a web server.
    """
    parts = parse_url(url)
    if parts.scheme not in PORTS or not parts.host or parts.port == 0:
        raise ValueError("not an address of a web server")
    return Server(parts.scheme, parts.host, parts.port or PORTS[parts.scheme])


def basic(user: str, password: str) -> str:
    """What says who asks (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@attrs.frozen
class Hints:
    """What to do about a server that may not be reached (as this machine; without encryption), or cannot be asked."""

    local: str
    plain: str
    other: str


@attrs.frozen
class _Way:
    """How one server is reached.

    Attributes:
        before: what stands before the path in what is asked for; a proxy has to be told the whole address.
    """

    pool: urllib3.HTTPConnectionPool
    before: str


class Sender:
    """Sends the requests of one store. Safe to use from several threads.

    How a server is reached (proxy, authorities) is decided with the first request to it.

    Args:
        variables: of the environment, which may name certificate authorities, before the usual ones.
    """

    def __init__(self, context: BackendContext, limits: Limits, hints: Hints, *variables: str) -> None:
        self._context = context
        self._limits = limits
        self._hints = hints
        self._variables = variables
        self._timeout = urllib3.Timeout(connect=limits.connect_timeout, read=limits.read_timeout)
        self._headers = {
            "User-Agent": f"medperf-storage/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
        }
        self._ways: OrderedDict[tuple[str, bool], _Way] = OrderedDict()
        self._trust: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._thread = threading.local()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any = b"",
        *,
        allow_local: bool,
        subject: str,
        failed: str,
    ) -> urllib3.BaseHTTPResponse:
        """The answer to one request, redirects as they are; to be closed, unless it was read to its end.

        Args:
            url: anything but its path and query, and a login, is left out.
            body: bytes, or something with ``read`` and ``__len__`` that is sent in pieces.
            allow_local: whether this machine may be reached.
            subject: of the sentences about what goes wrong.
            failed: the verb of those.

        Raises:
            Passing: it may go well next time.
            TransferError: the server cannot be asked as things are.
            CancelledError: nobody waits for it.
        """
        try:
            found = _ADDRESS.match(url)
            if found is None:
                raise ValueError
            way = self._way(found[1], allow_local)
            sent = {**self._headers, **headers}
            if body and not isinstance(body, bytes):
                sent["Content-Length"] = str(len(body))
            target = found[2] if found[2].startswith("/") else f"/{found[2]}"
            while True:
                try:
                    return way.pool.urlopen(
                        method,
                        f"{way.before}{target}",
                        body or None,
                        sent,
                        retries=False,
                        redirect=False,
                        assert_same_host=False,
                        timeout=self._timeout,
                        preload_content=False,
                        decode_content=False,
                    )
                except urllib3.exceptions.ProtocolError as error:
                    # As RFC 9112 (9.3.1) allows: that the server closed it meanwhile says nothing about this request.
                    if method not in ("GET", "HEAD") or not any(isinstance(each, StaleError) for each in error.args):
                        raise
        except AddressRefused as refused:
            hint = self._hints.plain if refused.plain else self._hints.local
            raise TransferError(f"{subject} {refused}.", hint=hint) from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self.failure(error, subject, failed) from None

    def failure(self, error: Exception, subject: str, failed: str) -> Exception:
        """An error of the libraries as ``Passing`` or ``TransferError``."""
        reason = reason_of(error, self._limits.connect_timeout, self._limits.read_timeout)
        if reason.passing:
            return Passing(reason.text)
        hint = self._hints.other
        if reason.certificate:
            hint = (
                "If the server has a certificate of a private authority, name the authority's PEM file as ca_bundle in "
                "the profile."
            )
        return TransferError(f"{subject} {failed}: {reason.text}.", hint=hint)

    @contextmanager
    def watched(self, wanted: Callable[[], None]) -> Iterator[None]:
        """In this thread, who waits for bytes calls ``wanted`` now and then, which may raise."""
        self._thread.wanted = wanted
        try:
            yield
        finally:
            self._thread.wanted = None

    def _wanted(self) -> None:
        self._context.cancel.raise_if_cancelled()
        if wanted := getattr(self._thread, "wanted", None):
            wanted()

    def _way(self, base: str, allow_local: bool) -> _Way:
        key = base, allow_local
        with self._lock:
            way = self._ways.get(key)
        if way is None:
            way = self._made(base, allow_local)
            with self._lock:
                way = self._ways.setdefault(key, way)
                if len(self._ways) > MAX_WAYS:
                    self._ways.popitem(last=False)[1].pool.close()
        return way

    def _made(self, base: str, allow_local: bool) -> _Way:
        """Decide how a server is reached.

        Raises:
            AddressRefused: it may not be.
        """
        server = server_of(base)
        host = server.host.strip("[]")
        encrypted = server.scheme == "https"
        rules = AddressRules(allow_local, "plain-http" in self._context.waivers, encrypted)
        rules.check_host(host)
        proxy = network.proxy_for(self._context, server.base)
        settings: dict[str, Any] = {"maxsize": MAX_CONNECTIONS, "blocksize": PIECE}
        if encrypted or (proxy or "").startswith("https:"):
            settings["ssl_context"] = self._trusted()
        if proxy is None:
            pool = pool_classes(rules.check_ip, self._wanted)[server.scheme](server.host, server.port, **settings)
            return _Way(pool, "")
        rules.check_resolved(host)
        manager = self._proxy_manager(proxy, settings)
        pool = manager.connection_from_host(server.host, server.port, server.scheme)
        whole = not encrypted and not proxy.startswith("socks")
        return _Way(pool, server.base if whole else "")

    def _proxy_manager(self, proxy: str, settings: dict[str, Any]) -> urllib3.PoolManager:
        if proxy.startswith("socks"):
            try:
                from urllib3.contrib.socks import SOCKSProxyManager
            except ImportError:
                raise ConfigurationError(
                    "The proxy speaks SOCKS, for which something is missing here.", hint="pip install PySocks"
                ) from None
            return SOCKSProxyManager(proxy, **settings)
        parts = parse_url(proxy if "://" in proxy else f"http://{proxy}")
        user, _, password = (parts.auth or "").partition(":")
        login = {"Proxy-Authorization": basic(unquote(user), unquote(password))} if parts.auth else {}
        manager = urllib3.ProxyManager(
            parts.url, proxy_headers=login, proxy_ssl_context=settings.get("ssl_context"), **settings
        )
        manager.pool_classes_by_scheme = pool_classes(None, self._wanted)
        return manager

    def _trusted(self) -> ssl.SSLContext:
        from requests.utils import DEFAULT_CA_BUNDLE_PATH

        with self._lock:
            if self._trust is None:
                found = network.authorities(self._context, *self._variables) or Path(DEFAULT_CA_BUNDLE_PATH)
                self._trust = tls_context(str(found), folder=found.is_dir(), wanted=self._wanted)
            return self._trust

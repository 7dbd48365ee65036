"""The store behind ``http:`` and ``https:`` addresses."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies

import attrs
import requests
import urllib3
from requests import utils
from requests.auth import HTTPBasicAuth

from medperf_core.errors import ConfigurationError, TransferError
from medperf_core.plugin import FetchInfo, FetchRequest, Notice, Storage
from medperf_storage import __version__
from medperf_storage.addresses import AddressRefused, AddressRules, GuardedAdapter, is_local
from medperf_storage.reasons import reason_of

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext, Sink
    from medperf_storage.settings import HttpSettings

CHUNK = 1 << 18  # larger pieces would come from fresh memory each time
MAX_REDIRECTS = 5
MAX_PAUSE = 30.0
MAX_RETRY_AFTER = 60.0
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_HINTS = {
    401: "The file needs a login; an address may hold one as https://user:password@host/file.",
    403: "The server does not give it to everybody; ask its owner to open it, or for another address.",
    404: "Check the address for typing errors, or ask its owner where the file is now.",
    407: "The proxy needs a login: set it as http://user:password@proxy:port.",
    410: "The file was removed; ask its owner where it is now.",
}
_PLAIN_HINT = "Use an https address or, if that network is trusted, run it again with: --allow plain-http"
_CA_HINT = (
    "If the server has a certificate of a private authority, name the authority's PEM file as ca_bundle in the profile."
)


class _Passing(Exception):
    """Something that may go well at the next attempt; ``after`` is how many seconds the server asked to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


@attrs.frozen
class _Target:
    """Where one request goes.

    Attributes:
        url: without user info and fragment.
        login: user and password for this very server, or None.
        allow_local: whether it may be this machine.
    """

    url: str
    login: tuple[str, str] | None
    allow_local: bool

    @property
    def server(self) -> tuple[str, str | None, int | None]:
        parts = urlsplit(self.url)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class HttpStorage(Storage):
    """Fetches by GET with requests; see the README for its rules."""

    def __init__(self, settings: HttpSettings, context: BackendContext) -> None:
        if min(settings.connect_timeout, settings.read_timeout) <= 0 or settings.attempts < 1 or settings.pause < 0:
            raise ConfigurationError(
                "The http settings must be time-outs above 0, 1 or more attempts and a pause of 0 or more."
            )
        self._settings = settings
        self._context = context

    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        start = self._start(request)
        shown = self.redact(request.url)
        self._context.require_network(f"fetching {shown}")
        attempt = 1
        while True:
            self._context.cancel.raise_if_cancelled()
            try:
                return self._attempt(start, request.max_bytes, sink)
            except _Passing as failure:
                if attempt >= self._settings.attempts:
                    raise TransferError(
                        f"{shown} could not be fetched: {failure.reason} (attempt {attempt} of {attempt}).",
                        hint="Try again later, and check the network.",
                    ) from None
                pause = max(min(self._settings.pause * 2 ** (attempt - 1), MAX_PAUSE), failure.after)
                self._context.emit(Notice(f"{shown}: {failure.reason}; trying again in {pause:g} s."))
            self._context.cancel.wait(pause)
            sink.restart()
            attempt += 1

    def _start(self, request: FetchRequest) -> _Target:
        try:
            parts = urlsplit(request.url)
            port = parts.port
        except ValueError:
            raise TransferError(
                "The address is not a URL that can be read.", hint="Check it for typing errors."
            ) from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise TransferError(
                f"{self.redact(request.url)} is not an address of a file on a web server.",
                hint="Write https://host/path.",
            )
        login = None
        if parts.username is not None:
            login = unquote(parts.username), unquote(parts.password or "")
        return _Target(_bare(request.url), login, request.allow_local)

    def _attempt(self, start: _Target, max_bytes: int, sink: Sink) -> FetchInfo:
        target = start
        for _ in range(MAX_REDIRECTS + 1):
            rules = AddressRules(
                target.allow_local, "plain-http" in self._context.waivers, target.url.startswith("https:")
            )
            with closing(GuardedAdapter(rules)) as adapter, closing(self._send(adapter, rules, target)) as response:
                if response.status_code not in REDIRECTS:
                    self._check_answer(response, target)
                    return self._receive(response, target, max_bytes, sink)
                target = self._redirected(start, target, response)
        raise TransferError(
            f"{self.redact(start.url)} redirects more than {MAX_REDIRECTS} times.",
            hint="Ask for an address that leads to the file itself.",
        )

    def _send(self, adapter: GuardedAdapter, rules: AddressRules, target: _Target) -> requests.Response:
        headers = {"User-Agent": f"medperf-storage/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
        try:
            login = HTTPBasicAuth(target.login[0].encode(), target.login[1].encode()) if target.login else None
            # requests reads an address in its own way, so its reading is what the rules are applied to.
            prepared = requests.Request("GET", target.url, headers=headers, auth=login).prepare()
            host = urlsplit(prepared.url or "").hostname or ""
            rules.check_host(host)
            proxies = self._proxies(target.url, host)
            if proxies:
                rules.check_resolved(host)
            return adapter.send(
                prepared,
                stream=True,
                verify=self._authorities(),
                proxies=proxies,
                timeout=(self._settings.connect_timeout, self._settings.read_timeout),
            )
        except AddressRefused as refused:
            hint = _PLAIN_HINT if "plain http" in str(refused) else "Ask its owner for an https address."
            raise TransferError(f"{self.redact(target.url)} {refused}.", hint=hint) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise self._failure(error, target) from None

    def _failure(self, error: Exception, target: _Target) -> Exception:
        reason = reason_of(error, self._settings.connect_timeout, self._settings.read_timeout)
        if reason.passing:
            return _Passing(reason.text)
        return TransferError(
            f"{self.redact(target.url)} could not be fetched: {reason.text}.",
            hint=_CA_HINT if reason.certificate else "Check the address, the network and the proxy.",
        )

    def _proxies(self, url: str, host: str) -> dict[str, str]:
        """The proxies for this address; {} to connect directly."""
        configured: Mapping[str, str] = self._context.proxies
        if is_local(host) or utils.should_bypass_proxies(url, no_proxy=configured.get("no_proxy")):
            return {}
        found = dict(configured or getproxies())
        return found if utils.select_proxy(url, found) else {}

    def _authorities(self) -> str | bool:
        given = self._context.ca_bundle
        if given is not None:
            if not given.is_file():
                raise ConfigurationError(
                    f"The file of certificate authorities {given} does not exist.",
                    hint="Correct ca_bundle in the profile.",
                )
            return str(given)
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            if os.environ.get(name) and Path(os.environ[name]).exists():
                return os.environ[name]
        # The system's file holds the authorities that a hospital added; that of requests (True) never does.
        system = ssl.get_default_verify_paths().cafile
        return system if system and Path(system).is_file() else True

    def _redirected(self, start: _Target, target: _Target, response: requests.Response) -> _Target:
        shown = self.redact(target.url)
        location = response.headers.get("Location", "")
        try:
            there = urljoin(target.url, utils.requote_uri(location.strip()))
            parts = urlsplit(there)
            host = parts.hostname
            bare = _bare(there)
        except (ValueError, requests.RequestException):
            host, bare, parts = None, "", urlsplit("")
        if not location or not host or parts.scheme not in ("http", "https"):
            scheme = f" of the scheme {parts.scheme}" if parts.scheme else ""
            raise TransferError(
                f"{shown} redirects to an address{scheme} that is not followed.",
                hint="Ask for an address that leads to the file itself.",
            )
        if target.url.startswith("https:") and parts.scheme == "http":
            raise TransferError(
                f"{shown} redirects from https to plain http ({self.redact(bare)}), which is not followed.",
                hint="Ask for an address that stays on https.",
            )
        if is_local(host):
            raise TransferError(
                f"{shown} redirects to this machine ({self.redact(bare)}), which is not followed.",
                hint="Use the address that it leads to, if you trust it.",
            )
        moved = _Target(bare, None, allow_local=False)
        return attrs.evolve(moved, login=start.login) if moved.server == start.server else moved

    def _check_answer(self, response: requests.Response, target: _Target) -> None:
        status = response.status_code
        if status in PASSING:
            raise _Passing(f"the server answered {status} {_words(response)}", _retry_after(response))
        if status != 200:
            raise TransferError(
                f"{self.redact(target.url)} could not be fetched: the server answered {status} {_words(response)}.",
                hint=_HINTS.get(status, "Ask the server's owner."),
            )
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise TransferError(
                f"{self.redact(target.url)} comes compressed ({encoding[:40]!r}) although it was asked for as it is, "
                "so it is not clear which bytes are the file.",
                hint="Ask the server's owner to send the file without Content-Encoding.",
            )

    def _receive(self, response: requests.Response, target: _Target, max_bytes: int, sink: Sink) -> FetchInfo:
        size = _announced(response)
        if size is not None and size > max_bytes:
            raise TransferError(f"{self.redact(target.url)} has {size} bytes; at most {max_bytes} are allowed.")
        sink.expect(size)
        body: urllib3.HTTPResponse = response.raw
        while True:
            try:
                # read1 returns what has come; read would wait for a whole chunk and make a slow server hard to cancel.
                data = body.read1(CHUNK, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise self._failure(error, target) from None
            if not data:
                break
            sink.write(data)
        if size is not None and sink.written != size:
            raise _Passing(f"the answer was cut short ({sink.written} of {size} bytes)")
        return FetchInfo(size=sink.written, version=response.headers.get("ETag", "")[:200])


def _bare(url: str) -> str:
    """``url`` without user info and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))


def _words(response: requests.Response) -> str:
    return "".join(char for char in str(response.reason or "") if char.isprintable())[:80]


def _announced(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    if "Transfer-Encoding" in response.headers or not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return int(text)


def _retry_after(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "").strip()
    try:
        seconds = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)

"""One request for a file on a web server: proxies, authorities, login, redirects, and the answers that are refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import attrs
import requests
import urllib3
from requests import utils
from requests.auth import HTTPBasicAuth

from medperf_core.errors import TransferError
from medperf_storage import __version__
from medperf_storage.addresses import AddressRefused, AddressRules, GuardedAdapter, is_local
from medperf_storage.network import authorities, proxies
from medperf_storage.reasons import reason_of

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext
    from medperf_storage.settings import HttpSettings

MAX_REDIRECTS = 5
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


class Passing(Exception):
    """Something that may go well at the next attempt; ``after`` is how many seconds the server asked to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


@attrs.frozen
class Target:
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


class Asker:
    """Asks for files as the site's settings say.

    Args:
        redact: takes the secrets out of an address, for messages.
    """

    def __init__(self, settings: HttpSettings, context: BackendContext, redact: Callable[[str], str]) -> None:
        self._settings = settings
        self._context = context
        self._redact = redact

    def first(self, url: str, allow_local: bool) -> Target:
        """Where to begin.

        Raises:
            TransferError: it is not an address of a file on a web server.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise TransferError(
                "The address is not a URL that can be read.", hint="Check it for typing errors."
            ) from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise TransferError(
                f"{self._redact(url)} is not an address of a file on a web server.",
                hint="Write https://host/path.",
            )
        login = None
        if parts.username is not None:
            login = unquote(parts.username), unquote(parts.password or "")
        return Target(_bare(url), login, allow_local)

    @contextmanager
    def answer(self, start: Target, headers: Mapping[str, str]) -> Iterator[tuple[requests.Response, Target]]:
        """What a server answers in the end, whatever it is but a redirect, and where that was. Its body is not read.

        Raises:
            Passing: it may go well next time.
            TransferError: it cannot be asked, or redirects to where nobody may go.
        """
        target = start
        for _ in range(MAX_REDIRECTS + 1):
            with closing(self.adapter(target)) as adapter, closing(self.ask(adapter, target, headers)) as response:
                if response.status_code not in REDIRECTS:
                    yield response, target
                    return
                target = self._redirected(start, target, response)
        raise TransferError(
            f"{self._redact(start.url)} redirects more than {MAX_REDIRECTS} times.",
            hint="Ask for an address that leads to the file itself.",
        )

    def adapter(self, target: Target) -> GuardedAdapter:
        """Connections to a target's server, to be closed; one file after another may go through them."""
        waived = "plain-http" in self._context.waivers
        return GuardedAdapter(AddressRules(target.allow_local, waived, target.url.startswith("https:")))

    def ask(self, adapter: GuardedAdapter, target: Target, headers: Mapping[str, str]) -> requests.Response:
        """The answer to one request, redirects as they are; to be closed.

        Raises:
            Passing: it may go well next time.
            TransferError: it cannot be asked.
        """
        rules = adapter.rules
        headers = {
            "User-Agent": f"medperf-storage/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            **headers,
        }
        try:
            login = HTTPBasicAuth(target.login[0].encode(), target.login[1].encode()) if target.login else None
            # requests reads an address in its own way, so its reading is what the rules are applied to.
            prepared = requests.Request("GET", target.url, headers=headers, auth=login).prepare()
            host = urlsplit(prepared.url or "").hostname or ""
            rules.check_host(host)
            through = proxies(self._context, target.url, host)
            if through:
                rules.check_resolved(host)
            return adapter.send(
                prepared,
                stream=True,
                verify=authorities(self._context),
                proxies=through,
                timeout=(self._settings.connect_timeout, self._settings.read_timeout),
            )
        except AddressRefused as refused:
            hint = _PLAIN_HINT if "plain http" in str(refused) else "Ask its owner for an https address."
            raise TransferError(f"{self._redact(target.url)} {refused}.", hint=hint) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise self.failure(error, target) from None

    def failure(self, error: Exception, target: Target) -> Exception:
        """An error of the libraries as ``Passing`` or ``TransferError``."""
        reason = reason_of(error, self._settings.connect_timeout, self._settings.read_timeout)
        if reason.passing:
            return Passing(reason.text)
        return TransferError(
            f"{self._redact(target.url)} could not be fetched: {reason.text}.",
            hint=_CA_HINT if reason.certificate else "Check the address, the network and the proxy.",
        )

    def _redirected(self, start: Target, target: Target, response: requests.Response) -> Target:
        shown = self._redact(target.url)
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
                f"{shown} redirects from https to plain http ({self._redact(bare)}), which is not followed.",
                hint="Ask for an address that stays on https.",
            )
        if is_local(host):
            raise TransferError(
                f"{shown} redirects to this machine ({self._redact(bare)}), which is not followed.",
                hint="Use the address that it leads to, if you trust it.",
            )
        moved = Target(bare, None, allow_local=False)
        return attrs.evolve(moved, login=start.login) if moved.server == start.server else moved

    def check_whole(self, response: requests.Response, target: Target) -> None:
        """Make sure that an answer is a file, whole and as it is.

        Raises:
            Passing: it may be one next time.
            TransferError: it is none.
        """
        status = response.status_code
        if status in PASSING:
            raise Passing(f"the server answered {status} {_words(response)}", _retry_after(response))
        if status != 200:
            raise TransferError(
                f"{self._redact(target.url)} could not be fetched: the server answered {status} {_words(response)}.",
                hint=_HINTS.get(status, "Ask the server's owner."),
            )
        self.check_encoding(response, target)

    def check_encoding(self, response: requests.Response, target: Target) -> None:
        """Make sure that an answer's bytes are those of the file.

        Raises:
            TransferError: they are compressed.
        """
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise TransferError(
                f"{self._redact(target.url)} comes compressed ({encoding[:40]!r}) although it was asked for as it is, "
                "so it is not clear which bytes are the file.",
                hint="Ask the server's owner to send the file without Content-Encoding.",
            )


def _bare(url: str) -> str:
    """``url`` without user info and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))


def _words(response: requests.Response) -> str:
    return "".join(char for char in str(response.reason or "") if char.isprintable())[:80]


def _retry_after(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "").strip()
    try:
        seconds = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)

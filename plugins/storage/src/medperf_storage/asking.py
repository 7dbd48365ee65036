"""One request for a file on a web server: proxies, authorities, login, redirects, and the answers that are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import attrs
import urllib3

from medperf_core.errors import AccessRefusedError, TransferError
from medperf_core.plugin.network import is_local
from medperf_storage.blocks import FAILED
from medperf_storage.expiry import ended
from medperf_storage.ranges import asking_for, part_size
from medperf_storage.retrying import PASSING, Passing, retry_after
from medperf_storage.sending import Hints, Sender, basic, server_of

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext
    from medperf_storage.settings import HttpSettings

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
REFUSED = frozenset({401, 403, 404})
_HINTS = {
    401: "The file needs a login; an address may hold one as https://user:password@host/file.",
    403: "The server does not give it to everybody; ask its owner to open it, or for another address.",
    404: "Check the address for typing errors, or ask its owner where the file is now.",
    407: "The proxy needs a login: set it as http://user:password@proxy:port.",
    410: "The file was removed; ask its owner where it is now.",
}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,19}(?=:)")
_REACHING = Hints(
    local="Ask its owner for an https address.",
    plain="Use an https address or, if that network is trusted, run it again with: --allow plain-http",
    other="Check the address, the network and the proxy.",
)


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


class Asker:
    """Asks for files as the site's settings say.

    Args:
        redact: takes the secrets out of an address, for messages.

    Attributes:
        sender: of its requests.
    """

    def __init__(self, settings: HttpSettings, context: BackendContext, redact: Callable[[str], str]) -> None:
        self.sender = Sender(context, settings, _REACHING)
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

    def answer(self, start: Target, headers: Mapping[str, str]) -> tuple[urllib3.BaseHTTPResponse, Target]:
        """What a server answers in the end, whatever it is but a redirect, to be closed; and where that was.

        Raises:
            Passing: it may go well next time.
            TransferError: it cannot be asked, or redirects to where nobody may go.
        """
        target = start
        for _ in range(MAX_REDIRECTS + 1):
            response = self.ask(target, headers)
            if response.status not in REDIRECTS:
                return response, target
            with response:
                target = self._redirected(start, target, response)
        raise TransferError(
            f"{self._redact(start.url)} redirects more than {MAX_REDIRECTS} times.",
            hint="Ask for an address that leads to the file itself.",
        )

    def ask(self, target: Target, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """The answer to one request, redirects as they are; to be closed. Raises as ``Sender.send`` does."""
        if target.login is not None:
            headers = {**headers, "Authorization": basic(*target.login)}
        return self.sender.send(
            "GET", target.url, headers, allow_local=target.allow_local, subject=self._redact(target.url), failed=FAILED
        )

    def part(self, target: Target, version: str, first: int, end: int, size: int) -> urllib3.BaseHTTPResponse:
        """An answer with the bytes from ``first`` on, up to ``end`` (not included), of a file of ``size`` bytes that is
        of ``version``; to be closed.

        Raises:
            Passing: it may go well next time.
            TransferError: the server does not give just this part.
        """
        response = self.ask(target, asking_for(version, first, end - 1))
        try:
            if response.status != 206:
                self.check_whole(response, target)
                raise TransferError("The server sends the whole file instead of parts.")
            self.check_encoding(response, target)
            if part_size(response.headers, version, first, end - 1, size) is None:
                raise TransferError("The server sends other parts than it was asked for.")
        except BaseException:
            response.close()
            raise
        return response

    def failure(self, error: Exception, target: Target) -> Exception:
        """An error of the libraries as ``Passing`` or ``TransferError``."""
        return self.sender.failure(error, self._redact(target.url), FAILED)

    def _redirected(self, start: Target, target: Target, response: urllib3.BaseHTTPResponse) -> Target:
        shown = self._redact(target.url)
        # Whoever reads an address reads the same in what is left of it: no user, and no backslash, which some take for
        # the end of the host.
        location = _text(response.headers.get("Location", "")).strip().replace("\\", "%5C")
        try:
            bare = _bare(urljoin(target.url, location))
            server = server_of(bare) if location else None
        except ValueError:
            server = None
        if server is None:
            scheme = _SCHEME.match(location)
            kind = f" of the scheme {scheme[0]}" if scheme else ""
            raise TransferError(
                f"{shown} redirects to an address{kind} that is not followed.",
                hint="Ask for an address that leads to the file itself.",
            )
        if target.url.startswith("https:") and server.scheme == "http":
            raise TransferError(
                f"{shown} redirects from https to plain http ({self._redact(bare)}), which is not followed.",
                hint="Ask for an address that stays on https.",
            )
        if is_local(server.host.strip("[]")):
            raise TransferError(
                f"{shown} redirects to this machine ({self._redact(bare)}), which is not followed.",
                hint="Use the address that it leads to, if you trust it.",
            )
        moved = Target(bare, None, allow_local=False)
        return attrs.evolve(moved, login=start.login) if server == server_of(start.url) else moved

    def check_whole(self, response: urllib3.BaseHTTPResponse, target: Target) -> None:
        """Make sure that an answer is a file, whole and as it is.

        Raises:
            Passing: it may be one next time.
            TransferError: it is none; AccessRefusedError if the server does not give it to whoever asks like that.
        """
        status = response.status
        if status in PASSING:
            raise Passing(f"the server answered {status} {_words(response)}", retry_after(response.headers))
        if status != 200:
            kind = AccessRefusedError if status in REFUSED else TransferError
            raise kind(
                f"{self._redact(target.url)} could not be fetched: the server answered {status} {_words(response)}.",
                hint=ended(target.url) or _HINTS.get(status, "Ask the server's owner."),
            )
        self.check_encoding(response, target)

    def check_encoding(self, response: urllib3.BaseHTTPResponse, target: Target) -> None:
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


def _text(header: str) -> str:
    """A header that may hold other characters than ASCII, which are sent as UTF-8 if at all."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _words(response: urllib3.BaseHTTPResponse) -> str:
    return "".join(char for char in str(response.reason or "") if char.isprintable())[:80]

"""Requests to the server of a bucket: one pool of connections, signed, with words for what goes wrong."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

import attrs
import requests
import urllib3

from medperf_core.errors import ConfigurationError, TransferError
from medperf_core.plugin import Notice
from medperf_storage import __version__
from medperf_storage.addresses import AddressRefused, AddressRules, GuardedAdapter
from medperf_storage.network import authorities, proxies
from medperf_storage.reasons import reason_of

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext

PIECE = 1 << 18
"""Bytes that are read or sent at once."""

MAX_REPLY = 1 << 20
"""Bytes of an answer that is not a file."""

MAX_CONNECTIONS = 32
"""That are kept for further requests."""

MAX_PARALLEL = 8
MAX_PAUSE = 30.0
MAX_RETRY_AFTER = 60.0
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_CODE = re.compile(rb"<Code>\s*([A-Za-z]{1,60})\s*</Code>")
_PASSING_CODES = frozenset({"RequestTimeout", "SlowDown", "OperationAborted"})
T = TypeVar("T")


class Patience(Protocol):
    """The settings that both stores have."""

    @property
    def connect_timeout(self) -> float: ...

    @property
    def read_timeout(self) -> float: ...

    @property
    def attempts(self) -> int: ...

    @property
    def pause(self) -> float: ...

    @property
    def parallel(self) -> int: ...


class Passing(Exception):
    """Something that may go well at the next attempt; ``after`` is how many seconds the server asked to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


@attrs.frozen
class Refusal(Exception):
    """The server answered, but not with what was asked for.

    Attributes:
        status: of HTTP.
        code: the server's own word for it, such as ``NoSuchKey``; "" if it gave none.
        headers: of the answer; names in lower case.
    """

    status: int
    code: str
    headers: Mapping[str, str]

    def __str__(self) -> str:
        return f"the server answered {self.status}{f' {self.code}' if self.code else ''}"


@attrs.frozen
class Call:
    """One request, not yet signed.

    Attributes:
        body: bytes, or something with ``read``, ``__len__`` and ``__iter__`` that is sent in pieces.
    """

    method: str
    url: str
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: Any = b""


class _Adapter(GuardedAdapter):
    """Sends bodies in larger pieces than the library would."""

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        super().init_poolmanager(connections, MAX_CONNECTIONS, block, blocksize=PIECE, **kwargs)


class Connections:
    """Sends requests for one store. Safe to use from several threads.

    Args:
        local: whether the site's own settings named a server on this machine.
        limits: time-outs and attempts.
    """

    def __init__(self, context: BackendContext, limits: Patience, *, local: bool) -> None:
        if min(limits.connect_timeout, limits.read_timeout) <= 0 or limits.attempts < 1 or limits.pause < 0:
            raise ConfigurationError(
                "The settings of a store must be time-outs above 0, 1 or more attempts and a pause of 0 or more."
            )
        if not 1 <= limits.parallel <= MAX_PARALLEL:
            raise ConfigurationError(f"Between 1 and {MAX_PARALLEL} parts of a file can be on their way at once.")
        self.context = context
        self.limits = limits
        self._local = local
        self._adapters: dict[bool, _Adapter] = {}
        self._lock = threading.Lock()

    @contextmanager
    def answer(self, call: Call) -> Iterator[requests.Response]:
        """The server's answer to a request, its body not yet read, if its status is below 300 or it is 308.

        Raises:
            Passing: it may go well next time.
            Refusal: the server said no.
            TransferError: the server cannot be reached as things are.
        """
        with closing(self._send(call)) as response:
            if response.status_code >= 300 and response.status_code != 308:
                code = _code(response)
                if response.status_code in PASSING or code in _PASSING_CODES:
                    raise Passing(f"the server answered {response.status_code} {code}".rstrip(), _retry_after(response))
                headers = {name.lower(): value[:300] for name, value in response.headers.items()}
                raise Refusal(response.status_code, code, headers)
            yield response

    def reply(self, call: Call) -> tuple[bytes, Mapping[str, str]]:
        """The whole of a short answer, and its headers; raises as ``answer`` does."""
        with self.answer(call) as response:
            data = b"".join(self.pieces(response, MAX_REPLY))
            return data, {name.lower(): value for name, value in response.headers.items()}

    def pieces(self, response: requests.Response, most: int) -> Iterator[bytes]:
        """The body of an answer as it comes.

        Raises:
            Passing: the connection broke.
            TransferError: more than ``most`` bytes came.
        """
        body: urllib3.HTTPResponse = response.raw
        came = 0
        while True:
            try:
                data = body.read1(PIECE, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
                raise self._failure(error) from None  # the last two: closed by another thread
            if not data:
                return
            came += len(data)
            if came > most:
                raise TransferError("A server sent more than it was asked for.", hint="The server or a proxy errs.")
            yield data

    def patiently(self, what: str, work: Callable[[], T]) -> T:
        """Do something until it goes well, with growing pauses.

        Args:
            what: for messages, such as "s3://bucket/key could not be fetched".
        """
        failures = 0
        while True:
            self.context.cancel.raise_if_cancelled()
            try:
                return work()
            except Passing as failure:
                failures += 1
                self.rest(what, failure, failures)

    def rest(self, what: str, failure: Passing, failures: int) -> None:
        """Wait before the next attempt.

        Raises:
            TransferError: it failed as often as it may.
            CancelledError: the work is no longer wanted.
        """
        if failures >= self.limits.attempts:
            raise TransferError(
                f"{what}: {failure.reason} (attempt {failures} of {failures}).",
                hint="Try again later, and check the network.",
            ) from None
        pause = max(min(self.limits.pause * 2 ** (failures - 1), MAX_PAUSE), failure.after)
        self.context.emit(Notice(f"{what}: {failure.reason}; trying again in {pause:g} s."))
        self.context.cancel.wait(pause)
        self.context.cancel.raise_if_cancelled()

    def _send(self, call: Call) -> requests.Response:
        headers = {"User-Agent": f"medperf-storage/{__version__}", "Accept-Encoding": "identity", **call.headers}
        host = urlsplit(call.url).hostname or ""
        encrypted = call.url.startswith("https:")
        rules = AddressRules(self._local, "plain-http" in self.context.waivers, encrypted)
        try:
            rules.check_host(host)
            through = proxies(self.context, call.url, host)
            if through:
                rules.check_resolved(host)
            return self._adapter(rules).send(
                requests.Request(call.method, call.url, headers=headers, data=call.body or None).prepare(),
                stream=True,
                verify=authorities(self.context, "AWS_CA_BUNDLE"),
                proxies=through,
                timeout=(self.limits.connect_timeout, self.limits.read_timeout),
            )
        except AddressRefused as refused:
            plain = "plain http" in str(refused)
            raise TransferError(
                f"The server {host} {refused}.",
                hint="Use an https endpoint or, if that network is trusted, run it again with: --allow plain-http"
                if plain
                else "Only an endpoint in the settings of this site may lead there.",
            ) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._failure(error) from None

    def _adapter(self, rules: AddressRules) -> _Adapter:
        with self._lock:
            if rules.encrypted not in self._adapters:
                self._adapters[rules.encrypted] = _Adapter(rules)
            return self._adapters[rules.encrypted]

    def _failure(self, error: Exception) -> Exception:
        reason = reason_of(error, self.limits.connect_timeout, self.limits.read_timeout)
        if reason.passing:
            return Passing(reason.text)
        hint = "Check the endpoint, the network and the proxy."
        if reason.certificate:
            hint = "If its authority is a private one, name the authority's PEM file as ca_bundle in the profile."
        return TransferError(f"The server of the bucket could not be asked: {reason.text}.", hint=hint)


def _code(response: requests.Response) -> str:
    """The server's own word for what is wrong, from the first bytes of its answer."""
    try:
        head = response.raw.read(1 << 16, decode_content=False) or b""
    except (urllib3.exceptions.HTTPError, OSError, ValueError):
        return ""
    found = _CODE.search(head)
    return found[1].decode() if found else ""


def _retry_after(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "").strip()
    try:
        seconds = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)

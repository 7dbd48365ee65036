"""Requests to the server of a bucket, and what its answers mean before anybody reads them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import attrs
import urllib3

from medperf_core.errors import ConfigurationError, TransferError
from medperf_storage.retrying import PASSING, Limits, Patience, check_limits, retry_after
from medperf_storage.retrying import Passing as Passing
from medperf_storage.sending import PIECE, Hints, Sender

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse as Response

    from medperf_core.plugin import BackendContext, CancelToken

MAX_REPLY = 1 << 20
"""Bytes of an answer that is not a file."""

MAX_PARALLEL = 8
_CODE = re.compile(rb"<Code>\s*([A-Za-z]{1,60})\s*</Code>")
PASSING_CODES = frozenset({"RequestTimeout", "SlowDown", "OperationAborted", "InternalError", "ServiceUnavailable"})
"""Words of servers for what may go well next time."""

_REACHING = Hints(
    local="Only an endpoint in the settings of this site may lead there.",
    plain="Use an https endpoint or, if that network is trusted, run it again with: --allow plain-http",
    other="Check the endpoint, the network and the proxy.",
)
_CLOUD = attrs.evolve(
    _REACHING,
    other="The cloud itself was asked, because no endpoint is set. For buckets on a server of your own, set "
    "s3.endpoint or gs.endpoint; else check the network and the proxy.",
)
T = TypeVar("T")


class BucketLimits(Limits, Protocol):
    """The settings that both stores for buckets have."""

    @property
    def parallel(self) -> int: ...


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
    """One request, ready to be sent.

    Attributes:
        body: bytes, or something with ``read`` and ``__len__`` that is sent in pieces.
        about: whom or what it is about, for messages: the address of an object.
    """

    method: str
    url: str
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: Any = b""
    about: str = "the bucket"


class Connections:
    """Sends requests for one store. Safe to use from several threads.

    Args:
        local: whether the site's own settings named the server, which may then be this machine.
        limits: time-outs and attempts.
        variables: of the environment, which may name certificate authorities, before the usual ones.

    Attributes:
        place: held by the one fetch that uses several connections; each holds blocks in memory meanwhile.
    """

    def __init__(self, context: BackendContext, limits: BucketLimits, *variables: str, local: bool) -> None:
        check_limits(limits)
        if not 1 <= limits.parallel <= MAX_PARALLEL:
            raise ConfigurationError(f"Between 1 and {MAX_PARALLEL} parts of a file can be on their way at once.")
        self.context = context
        self.limits = limits
        self.sender = Sender(context, limits, _REACHING if local else _CLOUD, *variables)
        self.place = threading.Lock()
        self._local = local

    def answer(self, call: Call, also: int = 200) -> Response:
        """The server's answer to a request, its body not yet read, if its status is below 300 or it is ``also``; to be
        closed, for which it is a context manager.

        Raises:
            Passing: it may go well next time.
            Refusal: the server said no.
            TransferError: the server cannot be reached as things are.
        """
        response = self.sender.send(
            call.method,
            call.url,
            call.headers,
            call.body,
            allow_local=self._local,
            subject=f"The server of {call.about}",
            failed="could not be asked",
        )
        if response.status < 300 or response.status == also:
            return response
        with response:
            code = _code(response)
            if response.status in PASSING or code in PASSING_CODES:
                raise Passing(f"the server answered {response.status} {code}".rstrip(), retry_after(response.headers))
            raise Refusal(response.status, code, _lower(response.headers, 300))

    def reply(self, call: Call) -> tuple[bytes, Mapping[str, str]]:
        """The whole of a short answer, and its headers; raises as ``answer`` does."""
        with self.answer(call) as response:
            data = b"".join(self.pieces(response, MAX_REPLY, call.about))
            return data, _lower(response.headers)

    def pieces(self, response: Response, most: int, about: str = "the bucket") -> Iterator[bytes]:
        """The body of an answer as it comes.

        Raises:
            Passing: the connection broke.
            TransferError: more than ``most`` bytes came.
            CancelledError: the work is no longer wanted.
        """
        came = 0
        while True:
            try:
                data = response.read1(PIECE, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise self.sender.failure(error, f"The server of {about}", "could not be asked") from None
            if not data:
                return
            came += len(data)
            if came > most:
                raise TransferError(
                    f"The server of {about} sent more than it was asked for.", hint="The server or a proxy errs."
                )
            yield data
            self.context.cancel.raise_if_cancelled()

    def patiently(self, what: str, work: Callable[[], T], cancel: CancelToken | None = None) -> T:
        """Do something until it goes well, with growing pauses.

        Args:
            what: for messages, such as "s3://bucket/key could not be fetched".
            cancel: of this work, if it has a token of its own.
        """
        token = cancel or self.context.cancel
        patience: Patience | None = None
        while True:
            token.raise_if_cancelled()
            try:
                if cancel is None:
                    return work()
                with self.sender.watched(cancel.raise_if_cancelled):
                    return work()
            except Passing as failure:
                patience = patience or Patience(self.limits, self.context, what, cancel)
                patience.failed(failure)


def _lower(headers: Mapping[str, str], most: int | None = None) -> dict[str, str]:
    return {name.lower(): value[:most] for name, value in headers.items()}


def _code(response: Response) -> str:
    """The server's own word for what is wrong, from the first bytes of its answer."""
    try:
        head = response.read(1 << 16, decode_content=False) or b""
    except (urllib3.exceptions.HTTPError, OSError, ValueError):
        return ""
    found = _CODE.search(head)
    return found[1].decode() if found else ""

"""Says in words why a request failed. The libraries' own words name whole addresses, with the secrets in them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from http.client import BadStatusLine

import attrs
from requests import exceptions as requests_errors
from urllib3 import exceptions as urllib3_errors


@attrs.frozen
class Reason:
    """Why it failed.

    Attributes:
        text: the end of a sentence about the address.
        passing: whether it may go well next time.
        certificate: whether the server's certificate was not accepted.
    """

    text: str
    passing: bool
    certificate: bool = False


def reason_of(error: BaseException, connect_timeout: float, read_timeout: float) -> Reason:
    """The reason behind an exception of requests or urllib3. Time-outs are in seconds."""
    chain = list(_chain(error))

    def find(*kinds: type[BaseException]) -> BaseException | None:
        return next((each for each in chain if isinstance(each, kinds)), None)

    via = "the proxy" if find(urllib3_errors.ProxyError, requests_errors.ProxyError) else "the server"
    if isinstance(found := find(ssl.SSLCertVerificationError), ssl.SSLCertVerificationError):
        return Reason(
            f"the certificate of {via} is not accepted: {found.verify_message.rstrip('.')}", False, certificate=True
        )
    if find(ssl.SSLEOFError, ssl.SSLZeroReturnError):
        return Reason(f"{via} broke off the encrypted connection", True)
    if isinstance(found := find(ssl.SSLError), ssl.SSLError):
        if found.reason == "NO_CERTIFICATE_OR_CRL_FOUND":
            return Reason("there is no certificate in the file of certificate authorities", False, certificate=True)
        words = (found.reason or "").replace("_", " ").lower() or "no common protocol"
        return Reason(f"no encrypted connection (TLS) with {via}: {words}", False)
    if find(requests_errors.SSLError, urllib3_errors.SSLError):
        return Reason(f"no encrypted connection (TLS) with {via}", False)
    if isinstance(found := find(socket.gaierror), socket.gaierror):
        return Reason(f"the name of {via} cannot be resolved", found.errno == socket.EAI_AGAIN)
    if find(urllib3_errors.ConnectTimeoutError) and not find(urllib3_errors.NewConnectionError):
        return Reason(f"{via} did not take the connection within {connect_timeout:g} s", True)
    # The exceptions of requests are OSErrors too, without a number.
    system = next((each for each in chain if isinstance(each, OSError) and each.errno is not None), None)
    if system is not None:
        return Reason(f"the connection to {via} failed: {(system.strerror or 'unknown').lower()}", True)
    if find(urllib3_errors.ReadTimeoutError, requests_errors.ReadTimeout, TimeoutError):
        return Reason(f"nothing came from {via} for {read_timeout:g} s", True)
    if find(urllib3_errors.IncompleteRead):
        return Reason("the answer was cut short", True)
    if find(ConnectionError, BadStatusLine):
        return Reason(f"{via} broke off the connection or does not speak HTTP", True)
    if find(urllib3_errors.ProxyError):
        return Reason("the proxy refused the connection", False)
    if find(urllib3_errors.ProtocolError, requests_errors.ConnectionError):
        return Reason(f"{via} broke off the connection or does not speak HTTP", True)
    return Reason(f"the request could not be made ({type(error).__name__})", False)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that it carries, the innermost last."""
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        each = todo.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            todo += [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]

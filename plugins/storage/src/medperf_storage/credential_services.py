"""Requests to the services that give credentials, which the clouds' own libraries would make in their own ways.

They go through this site's proxy and trust its authorities, like those to the stores. They are never redirected, since
their bodies are secrets; and they are encrypted, unless the service is on this machine or its metadata service.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import urllib3

from medperf_core.errors import AuthenticationError, ConfigurationError
from medperf_core.plugin.network import is_local, written_ip
from medperf_storage.network import authorities, proxies
from medperf_storage.reasons import Reason, reason_of

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext

TIMEOUTS = (15.0, 60.0)
"""Seconds until a service of AWS must have taken the connection, and that may pass without any byte from it."""

MAX_REPLY = 1 << 20
"""Bytes of an answer."""

_METADATA_NAMES = ("metadata.google.internal", "metadata.goog", "metadata")
_METADATA_VARIABLES = ("GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP")
_METADATA_IPV6 = "fd00:ec2::254"


def hush(library: str) -> None:
    """Keep a library's own log messages back: they tell what services answered, with the secrets in it.

    A program that gave the library's logger a level of its own has chosen, and is left alone.
    """
    logger = logging.getLogger(library)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


class ServiceSession(requests.Session):
    """A session of requests, as the library of Google takes one. Its errors are those of requests.

    Args:
        variables: of the environment, which may name certificate authorities, before the usual ones.
    """

    def __init__(self, context: BackendContext, *variables: str) -> None:
        super().__init__()
        self.trust_env = False
        self.max_redirects = 0
        self._context = context
        self._variables = variables

    def merge_environment_settings(
        self, url: str | bytes | None, proxies: Any, stream: bool | None, verify: Any, cert: Any
    ) -> Any:
        """How a request is made: as this site's settings say.

        Raises:
            ConfigurationError: it would be sent over plain http to another machine, or there is no file of authorities.
        """
        through, trusted = _way(self._context, _text(url), *self._variables)
        return {"proxies": through, "stream": stream, "verify": trusted, "cert": cert}


class AwsSender:
    """Sends the requests of botocore in its place: a handler of its event ``before-send``."""

    def __init__(self, context: BackendContext) -> None:
        self._session = ServiceSession(context, "AWS_CA_BUNDLE")

    def __call__(self, request: Any, **_: Any) -> Any:
        """The answer to a request, as botocore takes it.

        Raises:
            AuthenticationError: the service cannot be asked as things are.
            ConfigurationError: as ``ServiceSession`` does.
            botocore.exceptions.EndpointConnectionError: it may go well next time; the library tries again.
        """
        host = urlsplit(request.url).hostname or ""
        try:
            answer = self._session.request(
                request.method,
                request.url,
                headers={name: _text(value) for name, value in request.headers.items()},
                data=request.body,
                timeout=TIMEOUTS,
                stream=True,
            )
            with answer:
                data = answer.raw.read(MAX_REPLY, decode_content=True)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            reason = reason_of(error, *TIMEOUTS)
            if reason.passing:
                failure = import_module("botocore.exceptions").EndpointConnectionError
                raise failure(endpoint_url=host) from not_asked(f"The service {host}", reason)
            raise not_asked(f"The service {host}", reason) from None
        awsrequest = import_module("botocore.awsrequest")
        return awsrequest.AWSResponse(request.url, answer.status_code, answer.headers, _Raw(data))


def not_asked(service: str, reason: Reason) -> AuthenticationError:
    """The error for a service that gives no answer; ``service`` is the subject of the sentence."""
    hint = "Check the network and the proxy."
    if reason.certificate:
        hint = "If its authority is a private one, name the authority's PEM file as ca_bundle in the profile."
    return AuthenticationError(f"{service} could not be asked for credentials: {reason.text}.", hint=hint)


def _way(context: BackendContext, url: str, *variables: str) -> tuple[dict[str, str], str | bool]:
    """Proxies and authorities for the address of a service."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_metadata(host):
        return {}, authorities(context, *variables)
    if parts.scheme != "https" and not is_local(host) and "plain-http" not in context.waivers:
        raise ConfigurationError(
            f"The service that gives credentials, {host[:253]}, would be asked over plain http, where everybody on the "
            "way could use them.",
            hint="Correct its address or, if that network is trusted, run it again with: --allow plain-http",
        )
    return proxies(context, url, host), authorities(context, *variables)


def _is_metadata(host: str) -> bool:
    """Whether a host is that of a cloud's metadata service, which is asked directly and has no certificate."""
    ip = written_ip(host)
    if ip is not None and (ip.is_link_local or str(ip) == _METADATA_IPV6):
        return True
    places = {os.environ.get(name, "").rpartition(":")[0] or os.environ.get(name) for name in _METADATA_VARIABLES}
    return host in _METADATA_NAMES or host in places


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class _Raw:
    """The body of an answer that has come."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self._data

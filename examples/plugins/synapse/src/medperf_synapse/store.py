"""Fetches files of Synapse by ``synapse:syn123``, or ``synapse:syn123.4`` for the version 4 of it.

Synapse is asked for the file's address (https://rest-docs.synapse.org/rest/GET/entity/id/file.html), which is that of
some cloud, holds a signature and is valid for minutes. The token goes to Synapse only, never to that address.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
import urllib3

from medperf_core.errors import ConfigurationError, TransferError
from medperf_core.plugin import BackendContext, FetchInfo, FetchRequest, Sink, Storage, StoragePromise, network

if TYPE_CHECKING:
    from medperf_synapse import SynapseSettings

PIECE = 1 << 18
LONGEST_ADDRESS = 1 << 14
_ADDRESS = re.compile(r"synapse:(syn[0-9]{1,20})(?:\.([0-9]{1,10}))?", re.IGNORECASE)
LOGIN = "Make a personal access token with the scopes view and download, and run: medperf auth store synapse"


class SynapseStorage(Storage):
    """One GET for the address, one for the file."""

    promises = frozenset({StoragePromise.NETWORK, StoragePromise.SIZE})

    def __init__(self, settings: SynapseSettings, context: BackendContext) -> None:
        self._endpoint = settings.endpoint.rstrip("/")
        self._timeout = settings.timeout
        self._context = context
        if not self._endpoint.startswith("https://") and not _is_local(self._endpoint):
            raise ConfigurationError(
                "A token of Synapse is not sent over plain http.", hint="Set synapse.endpoint to an https address."
            )

    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        shown = self.redact(request.url)
        found = _ADDRESS.fullmatch(request.url)
        if found is None:
            raise TransferError(f"{shown[:200]!r} is no file of Synapse.", hint="Write synapse:syn123.")
        self._context.require_network(f"fetching {shown}")
        with requests.Session() as session:
            session.trust_env = False  # the site says through which proxy, and whom to trust
            trusted = network.authorities(self._context)
            session.verify = str(trusted) if trusted else True
            try:
                return self._receive(session, self._locate(session, found, shown), request, sink, shown)
            except (
                requests.RequestException,
                urllib3.exceptions.HTTPError,
            ) as error:  # its text may hold the signature
                raise TransferError(
                    f"{shown} could not be fetched: the connection failed ({type(error).__name__}).",
                    hint="Try again later, and check the network.",
                ) from None

    def _locate(self, session: requests.Session, found: re.Match[str], shown: str) -> str:
        """Where the file is now."""
        version = f"/version/{found[2]}" if found[2] else ""
        url = f"{self._endpoint}/repo/v1/entity/{found[1].lower()}{version}/file?redirect=false"
        token = (self._context.credentials("synapse") or {}).get("token")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with self._get(session, url, headers) as answer:
            if answer.status_code != 200:
                whose = "the stored token" if token else "no token, because none is stored"
                hint = LOGIN if answer.status_code in (401, 403) else "Check the number, or ask the file's owner."
                raise TransferError(f"{shown}: Synapse answered {answer.status_code}, asked with {whose}.", hint=hint)
            reply = answer.raw.read(LONGEST_ADDRESS + 1, decode_content=True)
        located = reply.decode("ascii", "replace").strip()
        if len(reply) > LONGEST_ADDRESS:
            raise TransferError(f"{shown}: Synapse named an endless address.", hint="Ask the file's owner.")
        if not located.startswith(f"{self._endpoint}/") and (not located.startswith("https://") or _is_local(located)):
            raise TransferError(f"{shown}: Synapse named no https address.", hint="Ask the file's owner.")
        return located

    def _receive(self, session: requests.Session, url: str, request: FetchRequest, sink: Sink, shown: str) -> FetchInfo:
        with self._get(session, url, {"Accept-Encoding": "identity"}) as answer:
            if answer.status_code != 200:
                raise TransferError(f"{shown}: its host answered {answer.status_code}.", hint="Try again later.")
            length = answer.headers.get("Content-Length", "")
            size = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
            if size is not None and size > request.max_bytes:
                raise TransferError(f"{shown} has {size} bytes; at most {request.max_bytes} are allowed.")
            sink.expect(size)
            while data := answer.raw.read(PIECE, decode_content=False):
                self._context.cancel.raise_if_cancelled()
                sink.write(data)
                if sink.written > request.max_bytes:
                    raise TransferError(f"{shown} has more than {request.max_bytes} bytes.")
        if size not in (None, sink.written):
            raise TransferError(f"{shown} was cut short ({sink.written} of {size} bytes).", hint="Try again.")
        return FetchInfo(size=sink.written)

    def _get(self, session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
        self._context.cancel.raise_if_cancelled()
        proxy = network.proxy_for(self._context, url)
        through = {urlsplit(url).scheme: proxy} if proxy else {}
        return session.get(
            url, headers=headers, stream=True, timeout=self._timeout, allow_redirects=False, proxies=through
        )


def _is_local(url: str) -> bool:
    """Whether a host is written as this machine."""
    try:
        return network.is_local(urlsplit(url).hostname or "")
    except ValueError:
        return False

"""Talking to a registry: manifests and blobs, by digest, each hashed as it comes.

A login is sent to the registry that it is for, and to the token server that this registry names if that is of the same
domain; never anywhere else, and never in the open except on this machine or with the waiver ``plain-http``.

Sources: OCI Distribution Specification; "Token Authentication Specification" of the Distribution project; RFC 6750.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import requests
import urllib3

from medperf_core.errors import (
    AuthenticationError,
    ExecutionError,
    TransferError,
    VerificationError,
)
from medperf_core.plugin import BackendContext
from medperf_core.plugin.identities import DIGEST
from medperf_core.plugin.image_reference import Reference
from medperf_core.plugin.network import authorities, is_local, proxy_for
from medperf_singularity.images.login import login

DOCUMENT_LIMIT = 4 << 20
CHUNK = 1 << 18
_TOKEN_LIMIT = 1 << 20
_REDIRECTS = 5
_ATTEMPTS = 4
_PAUSE = 0.5
_TIMEOUTS = (10.0, 60.0)
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_HUB = "registry-1.docker.io"
ACCEPTED = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)


class _Passing(Exception):
    """Something that may go well at the next attempt."""


class Registry:
    """One repository of one registry, for one image. Opens no connection before it is asked for something."""

    def __init__(self, context: BackendContext, reference: Reference) -> None:
        self._context = context
        host, name = split(reference.name)
        self.shown, self.name = host, name
        self._host = _HUB if host in ("docker.io", "index.docker.io") else host
        self._login = login(context, host)
        self._bearer: str | None = None
        self._basic = False
        self._scheme: str | None = None

    def manifest(self, what: str) -> tuple[bytes, str]:
        """A manifest or index by tag or digest: its bytes, and their digest.

        Raises:
            VerificationError: asked for by digest, it is something else.
            NotFoundError, AuthenticationError, TransferError: it cannot be had.
        """
        data = b"".join(self._get(f"manifests/{what}", DOCUMENT_LIMIT, {"Accept": ACCEPTED}))
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if DIGEST.fullmatch(what) and digest != what:
            raise VerificationError(f"The registry {self.shown} sent {digest} of {self.name} when asked for {what}.")
        return data, digest

    def document(self, digest: str) -> bytes:
        """A small blob, such as a configuration; VerificationError if it is something else."""
        return b"".join(self.blob(digest, None))

    def blob(self, digest: str, size: int | None) -> Iterator[bytes]:
        """A blob in pieces; one that breaks off is gone on with.

        Args:
            size: bytes, as the manifest says; None for a document of at most ``DOCUMENT_LIMIT``.

        Raises:
            VerificationError: its bytes are others; after the last piece.
        """
        if not DIGEST.fullmatch(digest):
            raise VerificationError(f"{self.name} names a part {digest[:80]!r}, which is not a digest.")
        hashed, done = hashlib.sha256(), 0
        limit = DOCUMENT_LIMIT if size is None else size
        for piece in self._get(f"blobs/{digest}", limit, {}):
            hashed.update(piece)
            done += len(piece)
            yield piece
        if f"sha256:{hashed.hexdigest()}" != digest or (size is not None and done != size):
            raise VerificationError(
                f"The registry {self.shown} sent something else of {self.name} than {digest}.",
                hint="Try again; if it stays so, tell the registry's operator.",
            )

    def _get(self, path: str, limit: int, headers: Mapping[str, str]) -> Iterator[bytes]:
        done, attempt = 0, 1
        while True:
            try:
                for piece in self._pieces(path, headers, done, limit):
                    done += len(piece)
                    yield piece
                return
            except _Passing as failure:
                if attempt == _ATTEMPTS:
                    raise TransferError(
                        f"{path} of {self.shown}/{self.name} could not be fetched: {failure} (attempt {attempt}).",
                        hint="Check the network, the proxy and the registry, then run the command again.",
                    ) from None
                self._context.cancel.wait(_PAUSE * 2**attempt)
                attempt += 1

    def _pieces(self, path: str, headers: Mapping[str, str], done: int, limit: int) -> Iterator[bytes]:
        more = {"Range": f"bytes={done}-"} if done else {}
        with closing(self._open(path, {**headers, **more})) as answer:
            skip = done if answer.status_code == 200 else 0
            came = 0 if answer.status_code == 200 else done
            if answer.status_code == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
                raise TransferError(
                    f"The registry {self.shown} sent another part of {self.name} than it was asked for."
                )
            try:
                for piece in answer.raw.stream(CHUNK, decode_content=False):
                    self._context.cancel.raise_if_cancelled()
                    came += len(piece)
                    if came > limit:
                        raise VerificationError(
                            f"The registry {self.shown} sends more for {path} of {self.name} than {limit} bytes."
                        )
                    cut = min(skip, len(piece))
                    skip -= cut
                    if piece[cut:]:
                        yield piece[cut:]
                announced = answer.headers.get("Content-Length", "")
                if announced.isdigit() and came < int(announced) + (done if answer.status_code == 206 else 0):
                    raise _Passing("the connection was cut")
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                raise _Passing(_words(error)) from None

    def _open(self, path: str, headers: Mapping[str, str]) -> requests.Response:
        """The answer to a question, with a login if one is asked for and redirects followed."""
        for round_ in range(2):
            answer = self._first(path, headers)
            if answer.status_code != 401 or round_:
                break
            challenge = answer.headers.get("WWW-Authenticate", "")
            answer.close()
            self._log_in(challenge)
        if answer.status_code in (200, 206):
            return answer
        status = answer.status_code
        answer.close()
        if status in _PASSING:
            raise _Passing(f"the registry answered {status}")
        if status in (401, 403):
            who = "refuses this login for" if self._login else "wants a login for"
            raise AuthenticationError(
                f"The registry {self.shown} {who} {self.name}.",
                hint=f"Log in as the user who runs medperf: docker login {self.shown}, or "
                f"apptainer registry login -u NAME docker://{self.shown}",
            )
        if status == 404:
            raise ExecutionError(
                f"The registry {self.shown} does not have {path.partition('/')[2]} of {self.name}.",
                hint="Check the image's name and that its owner has pushed it.",
            )
        raise TransferError(f"The registry {self.shown} answered {status} when asked for {path} of {self.name}.")

    def _first(self, path: str, headers: Mapping[str, str]) -> requests.Response:
        schemes = (self._scheme,) if self._scheme else self._schemes()
        for number, scheme in enumerate(schemes):
            url = f"{scheme}://{self._host}/v2/{self.name}/{path}"
            last = number == len(schemes) - 1
            try:
                answer = self._follow(url, headers)
            except requests.exceptions.SSLError as error:
                if last:
                    raise TransferError(
                        f"The certificate of the registry {self.shown} is not trusted: {_words(error)}.",
                        hint="If it is of a private authority, name its PEM file as ca_bundle in the profile.",
                    ) from None
                continue
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                if last:
                    raise _Passing(_words(error)) from None
                continue
            if answer.status_code == 400 and not last:  # a server of https says so when it is asked in the open
                answer.close()
                continue
            self._scheme = scheme
            return answer
        raise _Passing("it cannot be reached")

    def _schemes(self) -> tuple[str, ...]:
        if is_here(self._host):
            return ("http", "https")
        return ("https", "http") if "plain-http" in self._context.waivers else ("https",)

    def _follow(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        start = urlsplit(url)
        for _ in range(_REDIRECTS + 1):
            parts = urlsplit(url)
            own = (parts.scheme, parts.netloc) == (start.scheme, start.netloc)
            answer = self._send(url, headers, with_login=own)
            if answer.status_code not in (301, 302, 303, 307, 308):
                return answer
            there = urljoin(url, answer.headers.get("Location", ""))
            answer.close()
            target = urlsplit(there)
            open_again = target.scheme == "http" and parts.scheme == "https"
            inward = is_here(target.netloc) and not is_here(start.netloc)
            if target.scheme not in ("http", "https") or not target.hostname or open_again or inward:
                raise TransferError(
                    f"The registry {self.shown} redirects to an address that is not followed: "
                    f"{target.scheme}://{target.hostname}."
                )
            url = there
        raise TransferError(f"The registry {self.shown} redirects more than {_REDIRECTS} times.")

    def _send(self, url: str, headers: Mapping[str, str], *, with_login: bool) -> requests.Response:
        self._context.cancel.raise_if_cancelled()
        self._context.require_network(f"asking the registry {self.shown}")
        own = {"User-Agent": "medperf-singularity", "Accept-Encoding": "identity", **headers}
        login_now = None
        if with_login and self._bearer:
            own["Authorization"] = f"Bearer {self._bearer}"
        elif with_login and self._basic:
            login_now = self._login
        return self._request(url, own, login_now)

    def _request(self, url: str, headers: Mapping[str, str], who: tuple[str, str] | None) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False  # else .netrc and the environment decide who is told what
            auth = (who[0].encode(), who[1].encode()) if who else None
            prepared = session.prepare_request(requests.Request("GET", url, headers=dict(headers), auth=auth))
            there = prepared.url or url
            proxy, trusted = proxy_for(self._context, there), authorities(self._context)
            return session.send(
                prepared,
                stream=True,
                allow_redirects=False,
                timeout=_TIMEOUTS,
                verify=str(trusted) if trusted else True,
                proxies={urlsplit(there).scheme: proxy} if proxy else {},
            )

    def _log_in(self, challenge: str) -> None:
        scheme, _, rest = challenge.strip()[:4096].partition(" ")
        if scheme.lower() == "basic":
            self._basic = self._login is not None
            return
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if scheme.lower() != "bearer" or not fields.get("realm"):
            raise AuthenticationError(f"The registry {self.shown} asks for a login of an unknown kind.")
        self._bearer = self._token(fields)

    def _token(self, fields: Mapping[str, str]) -> str:
        realm = urlsplit(fields["realm"])
        inside = is_here(realm.netloc)
        if realm.scheme not in ("http", "https") or not realm.hostname or realm.username:
            raise AuthenticationError(f"The registry {self.shown} names a token server that is no address.")
        if (inside and not is_here(self._host)) or (realm.scheme == "http" and self._scheme == "https"):
            raise AuthenticationError(
                f"The registry {self.shown} names the token server {realm.scheme}://{realm.netloc}, which is not asked."
            )
        scope = f"repository:{self.name}:pull"
        query = urlencode(
            {key: value for key, value in (("service", fields.get("service")), ("scope", scope)) if value}
        )
        url = f"{realm.scheme}://{realm.netloc}{realm.path}?{query}"
        who = self._login if same_domain(realm.netloc, self._host) else None
        try:
            self._context.require_network(f"asking the token server {realm.netloc}")
            with closing(self._request(url, {"Accept": "application/json"}, who)) as answer:
                if answer.status_code != 200:
                    raise AuthenticationError(
                        f"The token server {realm.netloc} of the registry {self.shown} answered {answer.status_code}.",
                        hint=f"Log in as the user who runs medperf: docker login {self.shown}",
                    )
                data = answer.raw.read(_TOKEN_LIMIT, decode_content=True)
                document = json.loads(data)
                token = document.get("token") or document.get("access_token")
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _Passing(_words(error)) from None
        except (ValueError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[A-Za-z0-9\-._~+/]+=*", token):
            raise AuthenticationError(f"The token server {realm.netloc} of the registry {self.shown} sent no token.")
        return token


def split(name: str) -> tuple[str, str]:
    """Host and repository of a reference's name, as Docker reads it: without a host it is Docker Hub's."""
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        return (first, rest) if first != "docker.io" or "/" in rest else (first, f"library/{rest}")
    return "docker.io", name if slash else f"library/{name}"


def is_here(netloc: str) -> bool:
    """Whether ``host[:port]`` is this machine as it is written."""
    return is_local(urlsplit(f"//{netloc}").hostname or "")


def same_domain(one: str, other: str) -> bool:
    """Whether two hosts are the same, or share the last two parts of their names."""
    first, second = (urlsplit(f"//{each}").hostname or "" for each in (one, other))
    if first == second:
        return True
    if any(re.fullmatch(r"[0-9.]+|.*:.*", each) for each in (first, second)):
        return False
    ends = [each.split(".")[-2:] for each in (first, second)]
    return ends[0] == ends[1] and len(ends[0]) == 2


def _words(error: Any) -> str:
    return re.sub(r"0x[0-9a-f]+", "...", str(error))[:300]

"""Finding the Docker daemon and talking to it; what goes wrong there, in words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from medperf_core.errors import ExecutionError, MedperfError
from medperf_core.plugin import BackendContext

Client = Any
"""A ``docker.APIClient``, which is only partly typed."""
STANDARD_SOCKET = "unix:///var/run/docker.sock"
TIMEOUT = 120
"""Seconds that the daemon may take to answer a short question; transfers and builds have no limit."""

_MISFITS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What reading an answer of an unexpected form raises."""

_HINTS = (
    (
        r"no basic auth|unauthorized|authentication required|access .*denied|denied: |may require 'docker login'",
        "Log in at that registry with `docker login HOST` as the user who runs medperf.",
    ),
    (
        r"manifest unknown|manifest for .* not found|name unknown|repository .* not found",
        "Check the image's name and that its owner has pushed it.",
    ),
    (r"x509|certificate", "The daemon does not trust the registry's certificate: see /etc/docker/certs.d."),
    (r"HTTP response to HTTPS", "The registry speaks plain http: the daemon must list it in insecure-registries."),
    (
        r"no such host|i/o timeout|dial tcp|connection refused|connection reset|proxyconnect",
        "The daemon could not reach it: check the network and the daemon's own proxy settings.",
    ),
    (r"no space left", "The daemon's disk is full: `docker system df` shows what can be removed."),
    (
        r"bind source path does not exist",
        "The daemon does not see that path: it runs on another machine or in a virtual machine, or its root user "
        "may not read that network folder.",
    ),
    (
        r"mount.*(permission denied|not permitted|read-only)|(permission denied|stat ).*mount",
        "The daemon may not use that path. Network folders often shut out root: use a folder on a local disk.",
    ),
    (
        r"could not select device driver|nvidia|cdi",
        "The daemon cannot hand out GPUs: install the NVIDIA container toolkit, or run without GPUs.",
    ),
    (r"exec format error", "The image was built for another kind of processor."),
    (
        r"executable file not found|no such file or directory|No command specified|failed to exec",
        "The image does not have the program that its manifest or its entrypoint names.",
    ),
)


@attrs.frozen
class Endpoint:
    """Where a daemon is: its address for people, and the SDK's arguments for it."""

    address: str
    arguments: Mapping[str, Any]

    @property
    def socket(self) -> str | None:
        """Path of its Unix socket; None if it has another kind of address."""
        found = re.fullmatch(r"(?:http\+)?unix:/*(/.*)", self.address)
        return found[1] if found else None


def find_endpoint(host: str) -> Endpoint:
    """The daemon that ``docker`` itself would use, or the one at ``host`` if that is not empty.

    Raises:
        ExecutionError: the docker context in force, or its TLS files, do not exist.
    """
    from docker.context import ContextAPI
    from docker.errors import DockerException
    from docker.utils import kwargs_from_env

    environment = dict(os.environ)
    if host:
        environment["DOCKER_HOST"] = host
    try:
        found = kwargs_from_env(environment=environment)
        if "base_url" not in found:
            name = environment.get("DOCKER_CONTEXT") or None
            context = ContextAPI.get_context(name)
            if context is None:
                raise ExecutionError(
                    f"The docker context {name or 'in force'} does not exist.",
                    hint="`docker context ls` shows those that do.",
                )
            found = {"base_url": context.Host or STANDARD_SOCKET}
            if context.TLSConfig is not None:
                found["tls"] = context.TLSConfig
    except (DockerException, OSError, ValueError) as error:
        raise ExecutionError(
            f"The settings of the Docker connection are not usable: {one_line(str(error))}.",
            hint="Check DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH.",
        ) from error
    address = str(found["base_url"]).replace("http+unix:", "unix:")
    return Endpoint(address, {**found, "use_ssh_client": address.startswith("ssh:")})


class Connection:
    """Makes clients of one daemon. Nothing is opened before the first is asked for."""

    def __init__(self, host: str, context: BackendContext) -> None:
        self._host, self._context = host, context
        self._endpoint: Endpoint | None = None
        self._version: str | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Where the daemon is."""
        if self._endpoint is None:
            self._endpoint = find_endpoint(self._host)
        return self._endpoint

    @contextmanager
    def client(self, doing: str, *, patient: bool = False) -> Iterator[Client]:
        """A low-level client for one piece of work; what fails in it is told as an ExecutionError.

        Args:
            doing: the work, to follow "Docker could not", such as "pull IMAGE".
            patient: wait for answers without limit.
        """
        import requests
        from docker import APIClient
        from docker.errors import APIError, DockerException

        endpoint = self.endpoint
        if endpoint.socket is None:
            self._context.require_network(f"the Docker daemon at {endpoint.address}")
        client: Client = None
        try:
            client = APIClient(version=self._version or "auto", timeout=TIMEOUT, **endpoint.arguments)
            self._version = str(client.api_version)
            if patient:
                client.timeout = None
            yield client
        except MedperfError:
            raise
        except APIError as error:
            raise engine_error(doing, str(error.explanation or error)) from error
        except (DockerException, requests.RequestException) as error:
            raise unreachable(endpoint, error) if client is None else engine_error(doing, str(error)) from error
        except _MISFITS as error:  # after requests' own, of which the one for text that is no JSON is a ValueError
            raise _not_understood(doing, error) from error
        finally:
            if client is not None:
                client.close()


@contextmanager
def understood(doing: str) -> Iterator[None]:
    """While answers are read: one of another form than the interface's is told as an ExecutionError.

    Args:
        doing: the work, to follow "Docker could not".
    """
    import requests

    try:
        yield
    except requests.RequestException:  # among them text that is no JSON, which is a ValueError too
        raise
    except _MISFITS as error:
        raise _not_understood(doing, error) from error


def _not_understood(doing: str, error: BaseException) -> ExecutionError:
    return ExecutionError(
        f"Docker could not {doing}: an answer of it has another form than Docker's interface says "
        f"({type(error).__name__}: {one_line(str(error), 200)}).",
        hint="Check that the address is that of a Docker daemon or of Podman (DOCKER_HOST, --docker-host).",
    )


def engine_error(doing: str, words: str) -> ExecutionError:
    """What the engine said, with advice where its words are known."""
    words = one_line(words)
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, words, re.IGNORECASE)), None)
    return ExecutionError(f"Docker could not {doing}: {words.rstrip('.')}.", hint=hint)


def unreachable(endpoint: Endpoint, error: BaseException) -> ExecutionError:
    """Why no daemon answers at ``endpoint``, and what to do."""
    import ssl

    causes = list(_causes(error))
    text = " ".join(str(cause) for cause in causes)
    if any(isinstance(cause, PermissionError) for cause in causes):
        why = "this user may not use its socket"
        hint = "Have this user added to the group that owns the socket (usually `docker`), or use a rootless daemon."
    elif any(isinstance(cause, ssl.SSLError) for cause in causes) or "HTTPS server" in text:
        why = f"the TLS connection failed ({one_line(str(causes[-1]))})"
        hint = "Check DOCKER_TLS_VERIFY and the certificates in DOCKER_CERT_PATH, or those of the docker context."
    elif any(isinstance(cause, (FileNotFoundError, ConnectionRefusedError)) for cause in causes):
        why = "no daemon is running there"
        hint = "Start it (`systemctl start docker`), or say where it is (DOCKER_HOST, --docker-host)."
    else:
        why = one_line(str(causes[-1])) or type(error).__name__
        hint = "`docker info` shows whether docker itself works."
    return ExecutionError(f"The Docker daemon at {endpoint.address} cannot be used: {why}.", hint=hint)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        found = waiting.pop()
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__context__, found.__cause__, getattr(found, "reason", None), *found.args]


def one_line(words: str, limit: int = 600) -> str:
    """Words from outside as one printable line."""
    text = " ".join(words.split())
    return "".join(char if char.isprintable() else "?" for char in text)[:limit]

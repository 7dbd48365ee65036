"""Who asks for what is in Google Cloud Storage: what this site stored, else the application default credentials."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from medperf_core.errors import AuthenticationError, ConfigurationError

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext
    from medperf_storage.object_settings import GcsSettings

EXTRA = "pip install 'medperf-storage[gs]'"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_TIMEOUT = 60.0


@attrs.frozen
class Asker:
    """Who asks.

    Attributes:
        token: gives a bearer token that is valid now; None to ask without any.
        source: in words, for messages.
    """

    token: Callable[[], str] | None
    source: str


def find(bucket: str, settings: GcsSettings, context: BackendContext) -> Asker:
    """Whoever this site has for a bucket. May ask a metadata service, so it is not called offline.

    Raises:
        ConfigurationError: there are credentials that cannot be used as things are.
    """
    if settings.anonymous:
        return Asker(None, "the settings say: anonymous")
    for name in (f"gs://{bucket}", "gs"):
        stored = context.credentials(name)
        if stored:
            return _stored(name, stored, context)
    if settings.endpoint is None and os.environ.get("STORAGE_EMULATOR_HOST"):
        return Asker(None, "an emulator (STORAGE_EMULATOR_HOST) is asked without credentials")
    try:
        import google.auth
    except ImportError:
        return _none()
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError

    try:
        # With scopes from the start, the library would ask yet another service for a project that is not needed.
        found, _ = google.auth.default(request=_request(context))
        library: Any = import_module("google.auth.credentials")
        credentials = library.with_scopes_if_required(found, [SCOPE])
    except DefaultCredentialsError:
        if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            raise _unusable("the file that GOOGLE_APPLICATION_CREDENTIALS names") from None
        return Asker(
            None,
            "no credentials were found: none stored here, no application default credentials, no metadata service",
        )
    except (GoogleAuthError, OSError, ValueError):
        raise _unusable("the application default credentials of Google") from None
    return Asker(_Tokens(credentials, context), "the application default credentials of Google")


def _none() -> Asker:
    folder = Path(os.environ.get("CLOUDSDK_CONFIG") or "~/.config/gcloud").expanduser()
    given = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if given or (folder / "application_default_credentials.json").exists():
        raise ConfigurationError(
            "This account has application default credentials of Google, which need the library of Google.",
            hint=f"Install it with: {EXTRA}",
        )
    return Asker(
        None,
        "no credentials were found: none stored here, no application default credentials; those of instances need: "
        + EXTRA,
    )


def _stored(name: str, stored: Mapping[str, str], context: BackendContext) -> Asker:
    source = f"the credentials that are stored here as {name}"
    if token := stored.get("access_token"):
        return Asker(lambda: token, source)
    if text := stored.get("service_account"):
        try:
            accounts: Any = import_module("google.oauth2.service_account")
        except ImportError:
            raise ConfigurationError(
                f"{source[:1].upper()}{source[1:]} are those of a service account, which need the library of Google.",
                hint=f"Install it with: {EXTRA}",
            ) from None
        try:
            made = accounts.Credentials.from_service_account_info(json.loads(text), scopes=[SCOPE])
        except (ValueError, TypeError, KeyError, AttributeError):
            raise _unusable(source) from None
        return Asker(_Tokens(made, context), source)
    raise ConfigurationError(
        f"The credentials that are stored here as {name} have neither access_token nor service_account.",
        hint="Store one of the two; service_account is the text of a service account's JSON file.",
    )


class _Tokens:
    """Tokens of credentials that have to be fetched anew from time to time."""

    def __init__(self, credentials: Any, context: BackendContext) -> None:
        self._credentials = credentials
        self._context = context
        self._lock = threading.Lock()

    def __call__(self) -> str:
        from google.auth.exceptions import GoogleAuthError

        try:
            with self._lock:
                if not self._credentials.valid:
                    self._credentials.refresh(_request(self._context))
                return str(self._credentials.token)
        except (GoogleAuthError, OSError, ValueError) as error:
            raise _unusable(f"the credentials of Google ({type(error).__name__})") from None


def _request(context: BackendContext) -> Any:
    """How tokens are fetched: through the proxy and with the authorities of this site."""
    import requests
    from google.auth.transport.requests import Request

    session = requests.Session()
    session.proxies.update(context.proxies)
    if context.ca_bundle is not None:
        session.verify = str(context.ca_bundle)
    return Request(session)


def _unusable(what: str) -> AuthenticationError:
    # What a library says about a key or a token's server can hold parts of it.
    return AuthenticationError(
        f"{what[:1].upper()}{what[1:]} cannot be used.",
        hint="See what `gcloud auth application-default print-access-token` says, and log in there again.",
    )

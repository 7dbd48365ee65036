"""Who asks for what is in Google Cloud Storage: what this site stored, else the application default credentials."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from medperf_core.errors import AuthenticationError, ConfigurationError, MedperfError
from medperf_storage.credential_services import TIMEOUTS, ServiceSession, hush, not_asked
from medperf_storage.reasons import reason_of

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext
    from medperf_storage.object_settings import GcsSettings

EXTRA = "pip install 'medperf-storage[gs]'"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
OPT_IN = "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES"
"""Variable of Google's own that has to be 1 before a program is asked for credentials."""

_CODES = ("invalid_grant", "invalid_client", "invalid_request", "invalid_scope", "unauthorized_client", "access_denied")


@attrs.frozen
class Asker:
    """Who asks.

    Attributes:
        token: gives a bearer token that is valid now; None to ask without any.
        source: in words, for messages.
        renew: gets another for a token that a server no longer takes; whether there is one.
    """

    token: Callable[[], str] | None
    source: str
    renew: Callable[[str], bool] = lambda refused: False


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
    hush("google.auth")
    source = "the application default credentials of Google"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a person's login counts towards no project's quota
            # With scopes from the start, the library would ask yet another service for a project that is not needed.
            found, _ = google.auth.default(request=_request(context))
        library: Any = import_module("google.auth.credentials")
        credentials = library.with_scopes_if_required(found, [SCOPE])
    except MedperfError:
        raise
    except Exception as error:  # those of files that hold nonsense are of all kinds
        file = _file()
        if file:
            raise _unusable(file, error) from None
        if type(error).__name__ != "DefaultCredentialsError":
            raise _unusable(source, error) from None
        return Asker(
            None,
            "no credentials were found: none stored here, no application default credentials, no metadata service",
        )
    return _changing(credentials, context, source)


def _changing(credentials: Any, context: BackendContext, source: str) -> Asker:
    tokens = _Tokens(credentials, context, source)
    return Asker(tokens, source, tokens.renew)


def _file() -> str:
    """The file that application default credentials are in, in words; "" if there is none."""
    if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return "the file that GOOGLE_APPLICATION_CREDENTIALS names"
    folder = Path(os.environ.get("CLOUDSDK_CONFIG") or "~/.config/gcloud").expanduser()
    file = folder / "application_default_credentials.json"
    return f"the file {file}" if file.exists() else ""


def _none() -> Asker:
    if _file():
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
        except Exception as error:  # as above
            raise _unusable(source, error) from None
        hush("google.auth")
        return _changing(made, context, source)
    raise ConfigurationError(
        f"The credentials that are stored here as {name} have neither access_token nor service_account.",
        hint="Store one of the two; service_account is the text of a service account's JSON file.",
    )


class _Tokens:
    """Tokens of credentials that have to be fetched anew from time to time. Safe to use from several threads."""

    def __init__(self, credentials: Any, context: BackendContext, source: str) -> None:
        self._credentials = credentials
        self._context = context
        self._source = source
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            if not self._credentials.valid:
                self._refresh()
            return str(self._credentials.token)

    def renew(self, refused: str) -> bool:
        """Fetch another token, unless somebody else did already; whether it is another one."""
        with self._lock:
            if self._credentials.token == refused:
                self._refresh()
            return bool(self._credentials.token != refused)

    def _refresh(self) -> None:
        try:
            self._credentials.refresh(_request(self._context))
        except MedperfError:
            raise
        except Exception as error:  # those of answers that hold nonsense are of all kinds
            raise _unusable(self._source, error) from None


def _request(context: BackendContext) -> Any:
    """How tokens are fetched: through the proxy and with the authorities of this site."""
    from google.auth.transport.requests import Request

    return Request(ServiceSession(context))


def _unusable(what: str, error: Exception | None = None) -> MedperfError:
    """The error for credentials that cannot be used."""
    if error is not None and type(error).__name__ == "TransportError":
        return not_asked("The service that gives Google's tokens", reason_of(error, *TIMEOUTS))
    if OPT_IN in str(error):
        return ConfigurationError(
            f"{what[:1].upper()}{what[1:]} cannot be used: a program gives them, which the library of Google runs only "
            "if it is allowed to.",
            hint=f"If you trust that program, set {OPT_IN}=1.",
        )
    # What a library says about a key or a token's server can hold parts of it.
    kind = _code(error) or type(error).__name__ if error is not None else ""
    return AuthenticationError(
        f"{what[:1].upper()}{what[1:]} cannot be used{f' ({kind})' if kind else ''}.",
        hint="See what `gcloud auth application-default print-access-token` says, and log in again with: "
        "gcloud auth application-default login",
    )


def _code(error: Exception) -> str:
    """The service's word for what is wrong, if it is one of OAuth; anything else could be a secret."""
    for each in error.args:
        found = each.get("error") if isinstance(each, dict) else None
        if found in _CODES:
            return str(found)
    return ""

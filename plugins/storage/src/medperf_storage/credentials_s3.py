"""Who asks for what is in S3: keys that this site stored, else those that the tools of AWS would use."""

from __future__ import annotations

import configparser
import os
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from medperf_core.errors import AuthenticationError, ConfigurationError, MedperfError
from medperf_storage.credential_services import AwsSender, hush
from medperf_storage.sigv4 import Key

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext
    from medperf_storage.object_settings import S3Settings

EXTRA = "pip install 'medperf-storage[s3]'"
_ELSEWHERE = {
    "AWS_ROLE_ARN": "a role",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "a web identity",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "a container's role",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "a container's role",
}
_LOGIN_AGAIN = {
    "SSOTokenLoadError": "aws sso login",
    "UnauthorizedSSOTokenError": "aws sso login",
    "TokenRetrievalError": "aws sso login",
    "LoginTokenLoadError": "aws login",
    "LoginRefreshRequired": "aws login",
}
_CODES = (
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "ForbiddenException",
    "IDPCommunicationError",
    "IDPRejectedClaim",
    "InvalidClientTokenId",
    "InvalidIdentityToken",
    "RegionDisabledException",
    "ResourceNotFoundException",
    "SignatureDoesNotMatch",
    "ValidationError",
)
_NEEDS_MORE = (
    "login_session",
    "role_arn",
    "sso_session",
    "sso_start_url",
    "credential_process",
    "web_identity_token_file",
)


@attrs.frozen
class Asker:
    """Who asks.

    Attributes:
        key: gives the keys that are valid now; None to ask without any.
        source: in words, for messages: "the variables AWS_ACCESS_KEY_ID and ...".
        renew: gets others for keys that a server no longer takes; whether there are any.
    """

    key: Callable[[], Key] | None
    source: str
    renew: Callable[[Key], bool] = lambda refused: False


class AwsFiles:
    """The configuration files of AWS, as far as they are plain values."""

    def __init__(self, profile: str | None) -> None:
        self.profile = profile or os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
        self._config = _read(Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"))
        self._secrets = _read(Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"))

    def value(self, name: str) -> str:
        """A value of the profile; "" if it has none."""
        for found, section in (
            (self._secrets, self.profile),
            (self._config, "default" if self.profile == "default" else f"profile {self.profile}"),
        ):
            if found.has_option(section, name):
                return found.get(section, name).strip()
        return ""

    def key(self) -> Key | None:
        """The plain keys of the profile."""
        access, secret = self.value("aws_access_key_id"), self.value("aws_secret_access_key")
        return Key(access, secret, self.value("aws_session_token")) if access and secret else None


def find(bucket: str, settings: S3Settings, context: BackendContext) -> Asker:
    """Whoever this site has for a bucket. May ask a metadata service, so it is not called offline.

    Raises:
        ConfigurationError: there are credentials that cannot be used as things are.
        AuthenticationError: there are some that are no longer valid.
    """
    if settings.anonymous:
        return Asker(None, "the settings say: anonymous")
    for name in (f"s3://{bucket}", "s3"):
        stored = context.credentials(name)
        if stored:
            return Asker(_Fixed(_stored(name, stored)), f"the credentials that are stored here as {name}")
    environment = os.environ
    if not settings.profile and environment.get("AWS_ACCESS_KEY_ID") and environment.get("AWS_SECRET_ACCESS_KEY"):
        key = Key(
            environment["AWS_ACCESS_KEY_ID"],
            environment["AWS_SECRET_ACCESS_KEY"],
            environment.get("AWS_SESSION_TOKEN", ""),
        )
        return Asker(_Fixed(key), "the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    return _of_tools(settings, context)


def _stored(name: str, stored: Mapping[str, str]) -> Key:
    try:
        return Key(stored["access_key_id"], stored["secret_access_key"], stored.get("session_token", ""))
    except KeyError as error:
        raise ConfigurationError(
            f"The credentials that are stored here as {name} lack {error.args[0]}.",
            hint="They have access_key_id, secret_access_key and perhaps session_token.",
        ) from None


def _of_tools(settings: S3Settings, context: BackendContext) -> Asker:
    try:
        sessions = import_module("botocore.session")
    except ImportError:
        return _plain(settings)
    hush("botocore")
    files = "the AWS configuration files, a role or the metadata service"

    def look() -> Any:
        try:
            session = sessions.Session(profile=settings.profile)
            session.register("before-send", AwsSender(context))
            return session.get_credentials()
        except MedperfError:
            raise
        except Exception as error:  # the library's own have no common class, and hold what services answered
            raise _unusable(error, settings) from None

    found = look()
    if found is None:
        return Asker(None, f"no credentials were found: none stored here, none in variables, none from {files}")
    source = f"the credentials of AWS ({found.method})"
    keys = _Changing(found, look, settings)
    # Whoever gives them may be asked again, even for those that do not tell when they expire.
    return Asker(keys, source, keys.renew)


@attrs.frozen
class _Fixed:
    """Keys that stay as they are."""

    _key: Key

    def __call__(self) -> Key:
        return self._key


class _Changing:
    """Keys that may change while they are used, such as those of a role. Safe to use from several threads.

    Args:
        credentials: of the library of AWS, which fetches others in time.
        look: looks for credentials from the beginning.
    """

    def __init__(self, credentials: Any, look: Callable[[], Any], settings: S3Settings) -> None:
        self._credentials = credentials
        self._look = look
        self._settings = settings
        self._lock = threading.Lock()

    def __call__(self) -> Key:
        with self._lock:
            return self._now()

    def renew(self, refused: Key) -> bool:
        """Look for credentials again, unless somebody else did already; whether they are others now."""
        with self._lock:
            if self._now() == refused:
                found = self._look()
                if found is None:
                    return False
                self._credentials = found
            return self._now() != refused

    def _now(self) -> Key:
        try:
            found = self._credentials.get_frozen_credentials()
        except MedperfError:
            raise
        except Exception as error:
            raise _unusable(error, self._settings) from None
        return Key(found.access_key, found.secret_key, found.token or "")


def _plain(settings: S3Settings) -> Asker:
    """What can be read without the library of AWS."""
    files = AwsFiles(settings.profile)
    key = files.key()
    elsewhere = [words for name, words in _ELSEWHERE.items() if os.environ.get(name)]
    elsewhere += [f"{name} of the profile {files.profile}" for name in _NEEDS_MORE if files.value(name)]
    if elsewhere and (key is None or files.value("role_arn")):
        raise ConfigurationError(
            f"The AWS credentials of this account come from {elsewhere[0]}, which needs the library of AWS.",
            hint=f"Install it with: {EXTRA}",
        )
    if key is not None:
        return Asker(_Fixed(key), f"the profile {files.profile} of the AWS configuration files")
    if settings.profile:
        raise ConfigurationError(
            f"The AWS configuration files have no keys for the profile {settings.profile}.",
            hint="Correct the setting s3.profile or the files.",
        )
    return Asker(
        None,
        "no credentials were found: none stored here, none in variables, none in the AWS configuration files; those of "
        f"instances, roles and SSO need: {EXTRA}",
    )


def _unusable(error: Exception, settings: S3Settings) -> MedperfError:
    """The error for credentials that the library of AWS does not give."""
    if isinstance(error.__cause__, MedperfError):
        return error.__cause__
    kind = type(error).__name__
    profile = AwsFiles(settings.profile).profile
    if kind == "ProfileNotFound":
        return ConfigurationError(
            f"The AWS configuration files have no profile {profile}.",
            hint="Correct s3.profile, AWS_PROFILE or the files.",
        )
    if kind == "MissingDependencyException":
        return ConfigurationError(
            "The AWS credentials of this account come from `aws login`, which needs one more library.",
            hint="Install it with: pip install 'botocore[crt]'",
        )
    # The text of these errors can hold what a program or service answered, so only their kind is told.
    hint = "See what `aws sts get-caller-identity` says."
    if kind in _LOGIN_AGAIN:
        hint = f"Log in there again: {_LOGIN_AGAIN[kind]}{'' if profile == 'default' else f' --profile {profile}'}"
    return AuthenticationError(
        f"The AWS credentials of this account cannot be used ({_code(error) or kind}).", hint=hint
    )


def _code(error: Exception) -> str:
    """The service's word for what is wrong, if it is a usual one; anything else could be a secret."""
    response = getattr(error, "response", None)
    found = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return found if found in _CODES else ""


def _read(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, default_section="\0")
    try:
        parser.read(path.expanduser(), encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        raise ConfigurationError(
            f"The AWS configuration file {path} cannot be read.", hint="Correct or remove it."
        ) from None
    return parser

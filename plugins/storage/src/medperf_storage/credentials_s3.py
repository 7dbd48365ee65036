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

from medperf_core.errors import AuthenticationError, ConfigurationError
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
_NEEDS_MORE = ("role_arn", "sso_session", "sso_start_url", "credential_process", "web_identity_token_file")


@attrs.frozen
class Asker:
    """Who asks.

    Attributes:
        key: gives the keys that are valid now; None to ask without any.
        source: in words, for messages: "the variables AWS_ACCESS_KEY_ID and ...".
    """

    key: Callable[[], Key] | None
    source: str


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
    files = "the AWS configuration files, a role or the metadata service"
    failures = _failures()
    try:
        session = sessions.Session(profile=settings.profile)
        if context.ca_bundle is not None:
            session.set_config_variable("ca_bundle", str(context.ca_bundle))
        found = session.get_credentials()
    except failures as error:
        raise _unusable(error) from None
    if found is None:
        return Asker(None, f"no credentials were found: none stored here, none in variables, none from {files}")
    return Asker(_Frozen(found), f"the credentials of AWS ({found.method})")


@attrs.frozen
class _Fixed:
    """Keys that stay as they are."""

    _key: Key

    def __call__(self) -> Key:
        return self._key


class _Frozen:
    """Keys that may change while they are used, such as those of a role."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials
        self._lock = threading.Lock()

    def __call__(self) -> Key:
        failures = _failures()
        try:
            with self._lock:
                found = self._credentials.get_frozen_credentials()
        except failures as error:
            raise _unusable(error) from None
        return Key(found.access_key, found.secret_key, found.token or "")


def _failures() -> tuple[type[Exception], ...]:
    """What the library of AWS raises. It has no types."""
    exceptions = import_module("botocore.exceptions")
    return exceptions.BotoCoreError, exceptions.ClientError, OSError, ValueError


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


def _unusable(error: Exception) -> AuthenticationError:
    # The text of these errors can hold what a program or service answered, so only their kind is told.
    return AuthenticationError(
        f"The AWS credentials of this account cannot be used ({type(error).__name__}).",
        hint="See what `aws sts get-caller-identity` says; after a while, SSO needs a new `aws sso login`.",
    )


def _read(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, default_section="\0")
    try:
        parser.read(path.expanduser(), encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        raise ConfigurationError(
            f"The AWS configuration file {path} cannot be read.", hint="Correct or remove it."
        ) from None
    return parser

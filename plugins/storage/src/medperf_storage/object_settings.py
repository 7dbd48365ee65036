"""Settings of the stores for buckets: ``s3`` and ``gs``."""

from __future__ import annotations

import attrs

from medperf_core.plugin import setting

_PATIENCE = {
    "connect_timeout": "Seconds until a connection must stand.",
    "read_timeout": "Seconds that may pass without any byte.",
    "attempts": "How often something is asked for, without any of it coming, before giving up.",
    "pause": "Seconds before the second attempt; doubled for each further one, up to 30.",
    "parallel": "How many parts of a large file are on their way at once.",
}


@attrs.frozen
class S3Settings:
    """Where buckets of S3 are, and who asks for what is in them."""

    endpoint: str | None = setting(
        None, "Address of the S3 server, such as https://s3.hospital.example; AWS if nobody sets one."
    )
    region: str | None = setting(None, "Region of the buckets; that of the AWS profile, or us-east-1.")
    addressing: str = setting("auto", "Where the bucket's name stands: 'path', 'virtual' (in the host name) or 'auto'.")
    profile: str | None = setting(None, "Profile of the AWS configuration files whose credentials are used.")
    anonymous: bool = setting(False, "Ask without credentials, also where there are some.")
    requester_pays: bool = setting(False, "Pay for the transfer from buckets whose owner does not.")
    connect_timeout: float = setting(15.0, _PATIENCE["connect_timeout"])
    read_timeout: float = setting(60.0, _PATIENCE["read_timeout"])
    attempts: int = setting(5, _PATIENCE["attempts"])
    pause: float = setting(1.0, _PATIENCE["pause"])
    parallel: int = setting(4, _PATIENCE["parallel"])


@attrs.frozen
class GcsSettings:
    """Where buckets of Google Cloud Storage are, and who asks for what is in them."""

    endpoint: str | None = setting(None, "Address of the server; https://storage.googleapis.com if nobody sets one.")
    user_project: str | None = setting(None, "Project that pays for the transfer from buckets whose owner does not.")
    anonymous: bool = setting(False, "Ask without credentials, also where there are some.")
    connect_timeout: float = setting(15.0, _PATIENCE["connect_timeout"])
    read_timeout: float = setting(60.0, _PATIENCE["read_timeout"])
    attempts: int = setting(5, _PATIENCE["attempts"])
    pause: float = setting(1.0, _PATIENCE["pause"])
    parallel: int = setting(4, _PATIENCE["parallel"])

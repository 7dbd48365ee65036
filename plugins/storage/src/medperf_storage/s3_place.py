"""Where the buckets of S3 are: AWS, or a server that this site configured."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

from medperf_core.errors import ConfigurationError
from medperf_core.plugin.network import is_local, written_ip
from medperf_storage.credentials_s3 import AwsFiles
from medperf_storage.object_urls import check_endpoint

if TYPE_CHECKING:
    from medperf_storage.object_settings import S3Settings

REGION = re.compile(r"[a-z0-9-]{2,40}")


@attrs.frozen
class Place:
    """Where buckets are.

    Attributes:
        endpoint: of the site's own server, without a slash at its end; None for AWS.
        region: of the buckets, as far as is known.
        path_style: whether the bucket's name stands in the path; None where the name decides.
    """

    endpoint: str | None
    region: str
    path_style: bool | None

    def base(self, bucket: str) -> str:
        """The address of a bucket, without a slash at its end."""
        suffix = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        server = self.endpoint or f"https://s3.{self.region}.{suffix}"
        scheme, _, rest = server.partition("://")
        if self.path_style if self.path_style is not None else self._needs_path(rest, bucket):
            return f"{server}/{bucket}"
        return f"{scheme}://{bucket}.{rest}"

    def _needs_path(self, rest: str, bucket: str) -> bool:
        # A certificate for *.s3... does not hold for a name with more dots.
        return self.endpoint is not None or "." in bucket

    @property
    def local(self) -> bool:
        """Whether it is on this machine."""
        return self.endpoint is not None and is_local(urlsplit(self.endpoint).hostname or "")


def place_of(settings: S3Settings) -> Place:
    """Where the settings, the environment and the files of AWS say that buckets are.

    Raises:
        ConfigurationError: one of them makes no sense.
    """
    files = AwsFiles(settings.profile)
    endpoint = None
    for place, value in (
        ("the setting s3.endpoint", settings.endpoint),
        ("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL_S3")),
        ("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT_URL")),
        (f"the profile {files.profile} of the AWS configuration", files.value("endpoint_url")),
    ):
        if value:
            endpoint = check_endpoint(value, place)
            break
    region = settings.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    region = region or files.value("region") or "us-east-1"
    if not REGION.fullmatch(region):
        raise ConfigurationError("The region of S3 is not a name like eu-central-1.", hint="Correct s3.region.")
    styles = {"auto": None, "path": True, "virtual": False}
    if settings.addressing not in styles:
        raise ConfigurationError("The setting s3.addressing is 'auto', 'path' or 'virtual'.")
    style = styles[settings.addressing]
    if style is False and endpoint and written_ip(urlsplit(endpoint).hostname or ""):
        raise ConfigurationError(
            "A server that is named by its IP address cannot have the bucket in its host name.",
            hint="Set s3.addressing to 'path'.",
        )
    return Place(endpoint, region, style)

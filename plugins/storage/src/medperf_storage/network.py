"""How a connection is made at this site: through which proxy, and trusting whom."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.request import getproxies

from requests import utils

from medperf_core.errors import ConfigurationError
from medperf_core.plugin import BackendContext
from medperf_storage.addresses import is_local

_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def proxies(context: BackendContext, url: str, host: str) -> dict[str, str]:
    """The proxies for an address, as requests takes them; {} to connect directly."""
    configured: Mapping[str, str] = context.proxies
    if is_local(host) or utils.should_bypass_proxies(url, no_proxy=configured.get("no_proxy")):
        return {}
    found = dict(configured or getproxies())
    return found if utils.select_proxy(url, found) else {}


def authorities(context: BackendContext, *variables: str) -> str | bool:
    """The certificate authorities to trust, as requests takes them: a PEM file, or True for its own.

    Args:
        variables: of the environment, which may name a file too, before the usual ones.

    Raises:
        ConfigurationError: the profile's file is not there.
    """
    given = context.ca_bundle
    if given is not None:
        if not given.is_file():
            raise ConfigurationError(
                f"The file of certificate authorities {given} does not exist.",
                hint="Correct ca_bundle in the profile.",
            )
        return str(given)
    for name in (*variables, *_VARIABLES):
        if os.environ.get(name) and Path(os.environ[name]).exists():
            return os.environ[name]
    # The system's file holds the authorities that a hospital added; that of requests (True) never does.
    system = ssl.get_default_verify_paths().cafile
    return system if system and Path(system).is_file() else True

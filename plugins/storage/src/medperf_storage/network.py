"""How a connection is made at this site, as requests takes it: through which proxy, and trusting whom."""

from __future__ import annotations

from urllib.parse import urlsplit

from medperf_core.plugin import BackendContext, network


def proxies(context: BackendContext, url: str, host: str) -> dict[str, str]:
    """The proxies for an address; {} to connect directly.

    Args:
        host: the address's, as requests reads it.
    """
    found = None if network.is_local(host) else network.proxy_for(context, url)
    return {urlsplit(url).scheme: found} if found else {}


def authorities(context: BackendContext, *variables: str) -> str | bool:
    """The certificate authorities to trust: a PEM file, or True for those of requests.

    Args:
        variables: of the environment, which may name a file too, before the usual ones.

    Raises:
        ConfigurationError: the profile's file is not there.
    """
    found = network.authorities(context, *variables)
    return str(found) if found else True

"""How a site's backends connect: which hosts are this machine, through which proxy, and trusting whom.

A backend asks here for each address, and tells its own HTTP library the answers; a library that looks at the
environment by itself would not know what the profile says.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from medperf_core.errors import ConfigurationError
from medperf_core.plugin.context import BackendContext

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def written_ip(host: str) -> Ip | None:
    """The IP address that a host is written as, in any of the forms that connections understand; None for a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))  # 127.1, 0x7f000001, 2130706433
    except OSError:
        return None


def embedded_ipv4(ip: Ip) -> ipaddress.IPv4Address | None:
    """The address that an IPv6 address stands for, as one that is mapped or translated (RFC 4291, RFC 6052)."""
    if isinstance(ip, ipaddress.IPv4Address):
        return None
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped


def is_local_name(host: str) -> bool:
    """Whether a host is this machine by its name."""
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")


def is_local(host: str) -> bool:
    """Whether a host is this machine as it is written, in whatever way. A name may lead here all the same."""
    ip = written_ip(host.rstrip("."))
    if ip is None:
        return is_local_name(host)
    return any(each.is_loopback or each.is_unspecified for each in (ip, embedded_ipv4(ip)) if each)


def proxy_for(context: BackendContext, url: str) -> str | None:
    """The proxy for an address; None to connect directly.

    The profile's proxies count alone if there are any, else those of the environment (``https_proxy``, ``all_proxy``)
    or of the system. This machine is never asked through one, nor is what the profile's ``no_proxy``, or else the
    environment's, lists: names with all below them, IP addresses, networks as ``10.0.0.0/8``, or ``*``; separated by
    commas, with ``:port`` for one port only.

    Args:
        url: absolute, with a scheme and a host.

    Raises:
        ValueError: it is no address.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if is_local(host) or _excepted(context, host, parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)):
        return None
    found = {name: each for name, each in context.proxies.items() if name != "no_proxy"} or getproxies()
    for key in (f"{parts.scheme}://{host}", parts.scheme, f"all://{host}", "all"):
        if found.get(key):
            return found[key]
    return None


def _excepted(context: BackendContext, host: str, port: int) -> bool:
    listed = context.proxies.get("no_proxy") or os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    if not listed:
        return not context.proxies and bool(proxy_bypass(host))  # a system that has a list of its own
    return any(_matches(pattern, host, port) for pattern in re.split(r"[,\s]+", listed) if pattern)


def _matches(pattern: str, host: str, port: int) -> bool:
    if pattern == "*":
        return True
    ip = written_ip(host)
    with suppress(ValueError):
        network = ipaddress.ip_network(pattern.strip("[]"), strict=False)
        return ip is not None and ip in network
    name, colon, only = pattern.rpartition(":")
    if colon and only.isdigit():
        return int(only) == port and _matches(name, host, port)
    name = pattern.lower().removeprefix("*").strip(".")
    return ip is None and bool(name) and f".{host.lower()}".endswith(f".{name}")


def authorities(context: BackendContext, *variables: str) -> Path | None:
    """The PEM file of the certificate authorities to trust, or a folder of them; None for the HTTP library's own.

    The profile's ``ca_bundle`` counts first, then what the environment names, then the system's file, which has the
    authorities that a hospital added.

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
        return given
    for name in (*variables, *_AUTHORITIES):
        if os.environ.get(name) and Path(os.environ[name]).exists():
            return Path(os.environ[name])
    system = ssl.get_default_verify_paths().cafile
    return Path(system) if system and Path(system).is_file() else None

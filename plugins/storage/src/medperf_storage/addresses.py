"""Which addresses may be reached: the rules, and connections that hold them against what a name resolved to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import attrs
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA = ipaddress.IPv6Address("fd00:ec2::254")


class AddressRefused(Exception):
    """Why a host may not be reached, as the end of a sentence about it."""


@attrs.frozen
class AddressRules:
    """The rules for one request.

    Attributes:
        allow_local: whether this machine may be reached.
        allow_plain: whether other machines may be reached without encryption.
        encrypted: whether the request is https.
    """

    allow_local: bool
    allow_plain: bool
    encrypted: bool

    def check_host(self, host: str) -> None:
        """Check a host as it is written, before any connection.

        Raises:
            AddressRefused: it may not be reached.
        """
        ip = written_ip(host)
        if ip is not None:
            self.check_ip(ip)
        elif is_local_name(host):
            self._check_local()
        elif not self.encrypted and not self.allow_plain:
            raise AddressRefused("is plain http to another machine, which everybody on the way can read and change")

    def check_ip(self, ip: Ip) -> None:
        """Check an address that a connection reaches.

        Raises:
            AddressRefused: it may not be reached.
        """
        inner = _embedded_ipv4(ip)
        for each in (ip, inner) if inner else (ip,):
            if each.is_link_local or each == _METADATA:
                raise AddressRefused(f"leads to {ip}, a link-local address, which no file is fetched from")
            if each.is_loopback or each.is_unspecified:
                self._check_local()
                return
        if not self.encrypted and not self.allow_plain:
            raise AddressRefused("is plain http to another machine, which everybody on the way can read and change")

    def check_resolved(self, host: str) -> None:
        """Check what a host resolves to here, if it does; for a request that a proxy will make.

        Raises:
            AddressRefused: it may not be reached.
        """
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return  # behind a proxy, names of the outside are often unknown
        for *_, address in found:
            self.check_ip(ipaddress.ip_address(address[0]))

    def _check_local(self) -> None:
        if not self.allow_local:
            raise AddressRefused("leads to this machine (loopback), which only an address typed here may")


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


def is_local_name(host: str) -> bool:
    """Whether a host is this machine by its name."""
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")


def is_local(host: str) -> bool:
    """Whether a host is this machine as it is written."""
    ip = written_ip(host)
    if ip is None:
        return is_local_name(host)
    return any(each.is_loopback or each.is_unspecified for each in (ip, _embedded_ipv4(ip)) if each)


def _embedded_ipv4(ip: Ip) -> ipaddress.IPv4Address | None:
    if isinstance(ip, ipaddress.IPv4Address):
        return None
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped


class GuardedAdapter(HTTPAdapter):
    """Checks whom each direct connection reached, before the first byte is sent. A name can resolve to anything,
    and to something else when it is asked again, so a look at the name or a look-up beforehand is not enough."""

    def __init__(self, rules: AddressRules) -> None:
        self.rules = rules
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _guarded_pools(self.rules.check_ip)


def _guarded_pools(check: Callable[[Ip], None]) -> dict[str, type[HTTPConnectionPool]]:
    def checked(connected: socket.socket) -> socket.socket:
        try:
            check(ipaddress.ip_address(connected.getpeername()[0]))
        except BaseException:
            connected.close()
            raise
        return connected

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return checked(super()._new_conn())

    class Encrypted(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return checked(super()._new_conn())

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}

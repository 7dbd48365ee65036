"""Which addresses may be reached."""

from __future__ import annotations

import ipaddress
import socket

import attrs

from medperf_core.plugin.network import Ip, embedded_ipv4, is_local_name, written_ip

_METADATA = ipaddress.IPv6Address("fd00:ec2::254")


class AddressRefused(Exception):
    """Why a host may not be reached, as the end of a sentence about it; ``plain`` if it is for want of encryption."""

    def __init__(self, reason: str, *, plain: bool = False) -> None:
        super().__init__(reason)
        self.plain = plain


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
            raise _plain()

    def check_ip(self, ip: Ip) -> None:
        """Check an address that a connection reaches.

        Raises:
            AddressRefused: it may not be reached.
        """
        inner = embedded_ipv4(ip)
        for each in (ip, inner) if inner else (ip,):
            if each.is_link_local or each == _METADATA:
                raise AddressRefused(f"leads to {ip}, a link-local address, which no file is fetched from")
            if each.is_loopback or each.is_unspecified:
                self._check_local()
                return
        if not self.encrypted and not self.allow_plain:
            raise _plain()

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


def _plain() -> AddressRefused:
    words = "is plain http to another machine, which everybody on the way can read and change"
    return AddressRefused(words, plain=True)

"""The address of this machine that other hosts can reach."""

import fcntl
import ipaddress
import socket
import struct

from nucseg.errors import InputError

ELSEWHERE = "192.0.2.1"
"""An address that is nobody's (RFC 5737): which interface would lead there is asked, nothing is sent."""
SIOCGIFADDR = 0x8915


def address_towards(other: str) -> str | None:
    """The address of this machine from which another host is reached; None: the way there is unknown."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))
            found: str = probe.getsockname()[0]
    except OSError:
        return None
    return None if ipaddress.ip_address(found).is_loopback else found


def named_address(host: str) -> str:
    """The address that a host name, an interface (`eth1`, `ib0`) or an address means.

    Raises:
        InputError: It means none.
    """
    if host in {name for _, name in socket.if_nameindex()}:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            request = struct.pack("256s", host.encode()[:15])
            try:
                return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)[20:24])
            except OSError:
                problem = "an interface without an IPv4 address"
    else:
        try:
            return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
        except OSError as error:
            problem = error.strerror or str(error)
    raise InputError(
        "host",
        expected="an address, a name or a network interface of this machine",
        received=f"{host!r} ({problem})",
        remedy="`ip -4 address` lists them",
    )


def reachable_address(host: str | None = None, towards: str | None = None) -> str:
    """The IPv4 address that workers on other hosts are told to connect to.

    Args:
        host: What the user says: an address, a name, or an interface.
        towards: A host of the cluster, to take the interface that leads there; None, or if no interface does: the one
            of the default route.

    Raises:
        InputError: `host` means no address, or none was found.
    """
    if host is not None:
        return named_address(host)
    found = (towards and address_towards(towards)) or address_towards(ELSEWHERE)
    if not found:
        raise InputError(
            "host",
            expected="an address of this machine that other hosts can reach",
            received="only the loopback",
            remedy="name the address or the interface (host = ... in the cluster's file)",
        )
    return found

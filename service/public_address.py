"""Where the service may connect on a caller's word: to addresses that the whole internet reaches alone."""

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_GLOBAL_UNICAST = ip_network("2000::/3")
"""All of IPv6 that is given to networks; loopback, private, link-local, IPv4-mapped and NAT64 are outside."""

_NOT_PUBLIC = tuple(
    ip_network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address inside, private ones too
        "3fff::/20",  # documentation
        "168.63.129.16/32",  # a cloud's metadata service on a public address
        "192.0.0.0/24",  # protocol assignments, another cloud's metadata service among them
        "192.88.99.0/24",  # 6to4 relays
    )
)


class NoPublicAddressError(OSError):
    """A host that does not exist, or that has an address which is not public."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is public, whatever this Python thinks of translated ones."""
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    if any(address in network for network in _NOT_PUBLIC if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


async def resolve_public(host: str, port: int) -> list[str]:
    """The addresses of a host, to connect to one of them: a second look-up could give others.

    Raises:
        NoPublicAddressError: there is none, or one of them is not public.
    """
    return await asyncio.get_running_loop().run_in_executor(None, look_up_public, host, port)


def look_up_public(host: str, port: int) -> list[str]:
    """As resolve_public, for those who may wait."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(where[0]) for *_, where in found))
        parsed = [ip_address(address) for address in addresses]
    except (OSError, ValueError) as error:
        raise NoPublicAddressError(f"{host} has no public address") from error
    if not addresses or not all(is_public(address) for address in parsed):
        raise NoPublicAddressError(f"{host} has no public address")
    return addresses

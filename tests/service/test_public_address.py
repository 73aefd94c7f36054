"""Which addresses the service may connect to on a caller's word."""

import asyncio
from ipaddress import ip_address

import pytest

from service.public_address import NoPublicAddressError, is_public, resolve_public

PUBLIC = "8.8.8.8 1.1.1.1 2606:4700::1111 2a00:1450:4001:80b::200e"
NOT_PUBLIC = """
    0.0.0.0 10.1.2.3 100.64.0.1 100.100.100.200 127.0.0.1 127.255.0.1 168.63.129.16 169.254.169.254 172.16.0.1
    192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1
    255.255.255.255 :: ::1 ::127.0.0.1 ::ffff:8.8.8.8 ::ffff:127.0.0.1 ::ffff:0:127.0.0.1 64:ff9b::808:808
    64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1::1 3fff::1 fc00::1
    fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1
"""


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public_address_may_be_connected_to(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_address_that_is_not_public_may_not(address: str) -> None:
    assert not is_public(ip_address(address))


def test_host_with_one_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"mixed.test": ["8.8.8.8", "10.0.0.1"], "public.test": ["8.8.8.8", "8.8.8.8"]}

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (address, 443)) for address in found[host]]

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    assert asyncio.run(resolve_public("public.test", 443)) == ["8.8.8.8"]
    with pytest.raises(NoPublicAddressError):
        asyncio.run(resolve_public("mixed.test", 443))

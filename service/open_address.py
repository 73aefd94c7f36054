"""Whether the service may listen where others can reach it."""

import ipaddress
import socket

from service.errors import CommandError
from service.key_ring import KeyRing
from service.keys import KeyFileError, KeyStore
from service.settings import Settings


def check_open_address(settings: Settings) -> None:
    """Returns when only this machine can call, or callers need a key, or the operator has said that all may.

    Raises:
        CommandError: none of these, or the keys cannot be read; it says what to do.
    """
    try:
        ring = KeyRing(KeyStore(settings.keys_file))
    except KeyFileError as error:
        raise CommandError(str(error)) from error
    if settings.open_access or ring.is_required or _is_loopback(settings.host):
        return
    raise CommandError(
        f"others can reach {settings.host or 'every address'}, and there is no API key yet: make one with "
        "'semicap keys create NAME', or answer everybody with --open-access (SEMICAP_OPEN_ACCESS=true)"
    )


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host or None, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)

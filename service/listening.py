"""The socket that the service listens on."""

import socket

_BACKLOG = 2048


class PortError(OSError):
    """The address cannot be listened on; the message says why and what to do."""


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes any free one.

    Raises:
        PortError: the address is taken or not ours.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        reason, _, _ = (error.strerror or str(error)).partition(" (while")  # Python repeats the address there
        raise PortError(
            f"cannot listen on {host}:{port}: {reason}; "
            "choose another address with --host and --port (SEMICAP_HOST, SEMICAP_PORT)"
        ) from error

"""A worker's Prometheus port: of several on one machine, each takes the next that is free."""

import errno
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from service.errors import CommandError

MOST_WORKERS = 64

log = structlog.stdlib.get_logger("semicap.worker")


def serve_metrics(registry: CollectorRegistry, *, host: str, port: int) -> WSGIServer:
    """Serves the metrics in a thread of its own; its `server_port` is the one it took.

    Raises:
        CommandError: none of MOST_WORKERS ports is free, or the address is not this machine's.
    """
    for candidate in range(port, min(port + MOST_WORKERS, 65536)):
        try:
            server, _ = start_http_server(candidate, host, registry=registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise CommandError(
                    f"metrics cannot be served on {host}:{candidate}: {error.strerror}"
                ) from error
        else:
            log.info("metrics_served", port=candidate)
            return server
    raise CommandError(f"SEMICAP_WORKER_METRICS_PORT is {port}, and no port from there on is free")

"""Workers of one machine, each with metrics on a port of its own."""

import socket
import urllib.request

import pytest

from service.errors import CommandError
from service.jobs.metrics_port import serve_metrics
from service.metrics import Metrics


def test_second_worker_takes_the_next_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        servers = []
        for number in range(2):
            metrics = Metrics()
            metrics.item_done(f"worker-{number}")
            servers.append(serve_metrics(metrics.registry, host="127.0.0.1", port=port))
    assert port < servers[0].server_port < servers[1].server_port < port + 64
    for number, server in enumerate(servers):
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=10) as answer:
            assert f'semicap_job_items_total{{outcome="worker-{number}"}} 1.0' in answer.read().decode()
        server.shutdown()
        server.server_close()


def test_address_of_another_machine_is_named() -> None:
    with pytest.raises(CommandError, match=r"192\.0\.2\.1"):
        serve_metrics(Metrics().registry, host="192.0.2.1", port=20000)

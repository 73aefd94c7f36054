"""`semicap serve` with all its children, for tests that kill them."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAIT_S = 900
"""A busy machine takes minutes to load a model four times."""


class Serve:
    """A running `semicap serve`."""

    def __init__(self, checkpoint: Path, data_dir: Path, log: Path, **environment: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._command = [sys.executable, "-m", "service.cli", "serve", "--port", str(self.port)]
        self._environment = {
            **os.environ,
            "SEMICAP_CHECKPOINT": str(checkpoint),
            "SEMICAP_DATA_DIR": str(data_dir),
            "SEMICAP_JOB_CHUNK_ITEMS": "8",
            "SEMICAP_JOB_SAVE_S": "0.2",
            "SEMICAP_LOG_LEVEL": "debug",
            "SEMICAP_LOG_FORMAT": "json",
            **environment,
        }
        self.log = log
        self.process = self._start()

    def restart(self) -> None:
        self.process = self._start()

    def child(self, name: str) -> int:
        """Process id of a child, once it runs."""
        pids: list[str] = []

        def is_there() -> bool:
            pids[:] = re.findall(rf'"child": "{name}", "pid": (\d+)', self.log.read_text())
            return bool(pids) and is_alive(int(pids[-1]))

        wait_for(is_there, f"no {name} runs")
        return int(pids[-1])

    def ask(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> Any:
        return json.loads(self._text(method, path, body, content_type) or "[]")

    def lines(self, path: str) -> list[Any]:
        """Of an answer in JSON lines."""
        return [json.loads(line) for line in self._text("GET", path).splitlines()]

    def _text(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=body,
            headers={"Content-Type": content_type},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())

    def answers(self) -> bool:
        try:
            return bool(self.ask("GET", "/health/ready"))
        except OSError:
            return False

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(self._command, stderr=log, env=self._environment)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.1)

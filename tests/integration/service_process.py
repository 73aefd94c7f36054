"""`semicap serve` as a real process, for tests that talk to it over a socket."""

import os
import re
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from queue import Empty, Queue

START_S = 900


class Service:
    """A running `semicap serve` on a port of its own."""

    def __init__(self, checkpoint: Path, data_dir: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "SEMICAP_CHECKPOINT": str(checkpoint),
                "SEMICAP_LOG_FORMAT": "json",
                "SEMICAP_DATA_DIR": str(data_dir),
                **environment,
            },
        )
        self.log: list[str] = []
        self._lines: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = self._await_port()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            self._lines.put(line)

    def _await_port(self) -> int:
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                found = re.search(r'"url": "http://127.0.0.1:(\d+)"', self._lines.get(timeout=0.5))
            except Empty:
                continue
            if found:
                return int(found[1])
        self.end()
        raise AssertionError(f"the service did not start: {''.join(self.log)}")

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        with closing(self.connect()) as connection:
            connection.request(
                method, path, body=body, headers={"Content-Type": "image/jpeg"} if body else {}
            )
            response = connection.getresponse()
            return response.status, response.read()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def answered_requests(self) -> int:
        """Requests that reached the application, by its log; call it when the process has ended."""
        self._reader.join()
        return sum('"event": "request"' in line for line in self.log)

    def peak_bytes(self) -> int:
        """The most memory that the process and its children have ever held, each for itself."""
        peaks = []
        for pid in (self.process.pid, *self.children()):
            status = Path(f"/proc/{pid}/status").read_text()
            peaks.append(1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]))
        return sum(peaks)

    def children(self) -> set[int]:
        found = subprocess.run(
            ["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        ).stdout
        pairs = [tuple(map(int, line.split())) for line in found.splitlines()]
        return {pid for pid, parent in pairs if parent == self.process.pid}

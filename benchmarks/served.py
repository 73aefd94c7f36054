"""The service under load, beside the same model behind LitServe and beside the bare engine.

    python -m benchmarks.served --checkpoint FOLDER --clients 1 8 32 64 --requests 96

Captions of mixed length by a beam of 5: each request asks for its own number of tokens. Clients that wait for
their answers, then requests on a schedule of their own, at a share of what LitServe can answer. All services
run all the time and are asked in turn; one that waits takes no processor time. Ratios are what to read.
"""

import argparse
import asyncio
import base64
import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.load import Answers, Request, closed_loop, open_loop
from benchmarks.overload import Service
from models.checkpoint import load_captioner
from models.manifest import DEFAULT_CHECKPOINT
from service.engine.engine import Engine
from service.engine.options import CaptionOptions
from service.engine.settings import EngineSettings
from service.images import ImageLimits, read_pixels
from service.reading_ahead import read_ahead

BEAMS, SHORTEST, PHOTOS = 5, 4, 32
OPEN_SHARE = 0.7
"""Of LitServe's throughput, at which requests come on a schedule of their own."""
START_S = 300.0

RequestOf = Callable[[int], Request]


def main() -> None:
    """Starts all of them, asks them in turn, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--clients", type=int, nargs="+", default=(1, 8, 32, 64))
    parser.add_argument("--requests", type=int, default=96, help="of each service in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precision", default="auto", help="SEMICAP_PRECISION of the service and the engine")
    arguments = parser.parse_args()
    photos = [_photo(index) for index in range(PHOTOS)]
    captioner = load_captioner(arguments.checkpoint)
    lengths = _lengths(arguments.requests, longest=min(35, captioner.config.max_tokens))
    with ExitStack() as stack:
        engine = Engine(captioner, settings=EngineSettings(precision=arguments.precision))
        engine.start()
        stack.callback(engine.stop, drain_s=0)
        services = _started(arguments, stack, photos=photos, lengths=lengths)
        Console(width=120).print(_compare(services, arguments))
        rates, served = [], []
        port, request_of = services["semicap"]
        for _ in range(arguments.rounds):
            rates.append(_engine_rate(engine, photos, lengths, captioner=captioner))
            answers = asyncio.run(closed_loop(port, request_of, clients=32, requests=arguments.requests))
            served.append(answers.rate)
        bare, over_http = float(np.median(rates)), float(np.median(served))
        print(
            f"bare engine {bare:.2f} images/s; service, 32 clients: {over_http:.2f} ({over_http / bare:.0%})"
        )


def _photo(index: int) -> bytes:
    """A JPEG of 400 x 300 pixels."""
    small = np.random.default_rng(index).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def _lengths(count: int, *, longest: int) -> list[int]:
    return [int(one) for one in np.random.default_rng(0).integers(SHORTEST, longest + 1, count)]


def _started(
    arguments: argparse.Namespace, stack: ExitStack, *, photos: Sequence[bytes], lengths: Sequence[int]
) -> dict[str, tuple[int, RequestOf]]:
    """Port and requests of each service, the one to beat first."""
    services: dict[str, tuple[int, RequestOf]] = {}
    if importlib.util.find_spec("litserve") is None:
        print("LitServe is left out: it is not installed (pip install litserve)")
    else:
        port = stack.enter_context(_litserve(arguments.checkpoint))
        services["LitServe"] = port, lambda number: _litserve_request(number, photos, lengths)
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    environment = {
        "SEMICAP_CHECKPOINT": str(arguments.checkpoint.resolve()),
        "SEMICAP_PRECISION": arguments.precision,
        "SEMICAP_WORKERS": "0",
        "SEMICAP_REPEATED_IMAGES": "0",
        "SEMICAP_DEADLINE_S": "600",
    }
    service = Service(Path(folder), environment)
    stack.callback(service.process.wait, 60)
    stack.callback(service.process.terminate)
    services["semicap"] = service.port, lambda number: _own_request(number, photos, lengths)
    for port, request_of in services.values():  # the first ones are slow
        asyncio.run(closed_loop(port, request_of, clients=8, requests=16))
    return services


def _own_request(number: int, photos: Sequence[bytes], lengths: Sequence[int]) -> Request:
    tokens = lengths[number % len(lengths)]
    query = (
        f"num_beams={BEAMS}&min_tokens={tokens}&max_tokens={tokens}&no_repeat_ngram_size=0&rank_by=likelihood"
    )
    return Request(f"/v1/captions?{query}", "image/jpeg", photos[number % len(photos)])


def _litserve_request(number: int, photos: Sequence[bytes], lengths: Sequence[int]) -> Request:
    image = base64.b64encode(photos[number % len(photos)]).decode()
    body = {"image": image, "tokens": lengths[number % len(lengths)], "beams": BEAMS}
    return Request("/predict", "application/json", json.dumps(body).encode())


@contextmanager
def _litserve(checkpoint: Path) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "benchmarks.litserve_peer", str(checkpoint)]
    command += ["--port", str(port), "--threads", str(torch.get_num_threads())]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        _await_port(port, process)
        yield port
    finally:
        _end(process)


def _await_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise SystemExit("LitServe did not start")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Its web process and its worker too: they have a session of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _compare(services: Mapping[str, tuple[int, RequestOf]], arguments: argparse.Namespace) -> Table:
    columns = ("requests/s", "p50, s", "p95, s", "p99, s", "failed")
    table = Table("clients", "service", *columns, "throughput", "p95", box=None)
    peer_rate = 0.0
    for clients in arguments.clients:
        found = {name: Answers() for name in services}
        for _ in range(arguments.rounds):
            for name, (port, request_of) in services.items():
                count = max(clients, arguments.requests if clients > 1 else arguments.requests // 4)
                found[name].add(asyncio.run(closed_loop(port, request_of, clients=clients, requests=count)))
        _add_rows(table, str(clients), found)
        rates = ", ".join(f"{name} {answers.rate:.2f}/s" for name, answers in found.items())
        print(f"{clients} clients: {rates}", flush=True)
        if clients == max(arguments.clients, key=lambda one: (one <= 32, one)):
            peer_rate = next(iter(found.values())).rate
    scheduled = {
        name: asyncio.run(
            open_loop(port, request_of, rate=OPEN_SHARE * peer_rate, requests=arguments.requests)
        )
        for name, (port, request_of) in services.items()
    }
    _add_rows(table, f"{OPEN_SHARE * peer_rate:.2f}/s arrive", scheduled)
    return table


def _add_rows(table: Table, title: str, found: Mapping[str, Answers]) -> None:
    base = next(iter(found.values()))
    for name, answers in found.items():
        seconds = [f"{answers.percentile(percent):.2f}" for percent in (50, 95, 99)]
        ratios = f"{answers.rate / base.rate:.2f} x", f"{answers.percentile(95) / base.percentile(95):.2f} x"
        table.add_row(title, name, f"{answers.rate:.2f}", *seconds, str(answers.failed), *ratios)


def _engine_rate(engine: Engine, photos: Sequence[bytes], lengths: Sequence[int], *, captioner: Any) -> float:
    """Images a second of the engine alone, from the same files and kept as full as 32 clients keep it."""
    limits = ImageLimits(max_bytes=2**24, max_pixels=2**24)
    waiting: deque[Any] = deque()
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        files = (photos[number % len(photos)] for number in range(len(lengths)))
        preprocess = captioner.clip.preprocess
        pixels = read_ahead(
            files, lambda data: read_pixels(data, limits=limits, preprocess=preprocess), pool=pool, threads=2
        )
        for tokens, (_, future) in zip(lengths, pixels, strict=True):
            options = CaptionOptions(
                num_beams=BEAMS,
                min_tokens=tokens,
                max_tokens=tokens,
                no_repeat_ngram_size=0,
                rank_by="likelihood",
            )
            waiting.append(engine.submit(future.result()[0], options))
            if len(waiting) == 32:
                waiting.popleft().result()
        for answer in waiting:
            answer.result()
    return len(lengths) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()

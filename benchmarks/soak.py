"""Memory over many requests of all kinds: `python -m benchmarks.soak --requests 20000`.

A service with the default model is asked for captions by every strategy, of 1 to 24 tokens, of one to three
images, and for scores of texts; some files are broken and some clients leave early. Prints its memory on the
way, and how much it grew over the second half, when every kind of request has been seen often.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.overload import NO_ANSWER, Service

PHOTOS, CLIENTS, POINTS = 64, 12, 20
BOUNDARY = "semicap-soak"
PATIENCE_S = (0.001, 0.2)
"""Of the clients that leave early."""


class Soak:
    """Clients that post random requests until so many have been sent."""

    def __init__(self, service: Service, *, requests: int, seed: int) -> None:
        self.service = service
        self.requests = requests
        self.random = random.Random(seed)
        self.photos = [_photo(index) for index in range(PHOTOS)]
        self.sent = 0
        self.statuses: Counter[int] = Counter()
        self.memory: list[tuple[int, float]] = []

    async def run(self) -> None:
        """Returns when all have been answered or left."""
        await asyncio.gather(*(self._client() for _ in range(CLIENTS)))
        self._note()

    async def _client(self) -> None:
        while self.sent < self.requests:
            if self.sent % max(1, self.requests // POINTS) == 0:
                self._note()
            self.sent += 1
            await self._ask()

    def _note(self) -> None:
        self.memory.append((self.sent, self.service.resident_mib()))
        print(f"{self.sent} requests: {self.memory[-1][1]:.0f} MiB", flush=True)

    async def _ask(self) -> None:
        target, body, patience_s = self._request()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.service.port)
        try:
            writer.write(_head(target, len(body)) + body)
            answer = await asyncio.wait_for(reader.read(), patience_s)
            self.statuses[int(answer.split(b" ", 2)[1]) if answer else NO_ANSWER] += 1
        except TimeoutError:
            self.statuses[NO_ANSWER] += 1
        finally:
            writer.close()

    def _request(self) -> tuple[str, bytes, float | None]:
        """Where to, the body, and how long the client waits."""
        draw = self.random
        images = draw.sample(self.photos, draw.choice((1, 1, 1, 2, 3)))
        if draw.random() < 0.05:
            images[0] = images[0][: draw.randrange(1, len(images[0]))]
        patience_s = draw.uniform(*PATIENCE_S) if draw.random() < 0.05 else None
        if draw.random() < 0.1:
            texts = [f"photo {draw.randrange(1000)}" for _ in range(draw.randint(1, 8))]
            return "/v1/scores", _multipart(images, texts), patience_s
        tokens = draw.randint(1, 24)
        strategy = draw.choice(
            (
                "strategy=greedy",
                f"num_beams={draw.randint(1, 6)}",
                f"strategy=sample&seed={draw.randrange(10**6)}&top_k={draw.choice((0, 20))}",
            )
        )
        return f"/v1/captions?{strategy}&max_tokens={tokens}", _multipart(images), patience_s


def _photo(index: int) -> bytes:
    """JPEGs of different sizes."""
    rng = np.random.default_rng(index)
    small = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    edge = int(rng.integers(64, 400))
    file = BytesIO()
    Image.fromarray(small).resize((edge * 4 // 3, edge), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def _multipart(images: list[bytes], texts: Sequence[str] = ()) -> bytes:
    fields = [(f'name="image"; filename="{index}.jpg"', image) for index, image in enumerate(images)]
    fields += [('name="text"', text.encode()) for text in texts]
    parts = [
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n"
        for head, value in fields
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def _head(target: str, length: int) -> bytes:
    lines = (
        f"POST {target} HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        f"Content-Length: {length}",
    )
    return "\r\n".join((*lines, "", "")).encode()


def main() -> None:
    """Runs the service, asks, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", help="SEMICAP_CHECKPOINT, if not the model that comes along")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = {"SEMICAP_CHECKPOINT": arguments.checkpoint} if arguments.checkpoint else {}
        service = Service(Path(folder), {"SEMICAP_WORKERS": "0", **chosen})
        try:
            began = time.monotonic()
            soak = Soak(service, requests=arguments.requests, seed=arguments.seed)
            asyncio.run(soak.run())
            _print(soak, seconds=time.monotonic() - began)
        finally:
            service.process.kill()


def _print(soak: Soak, *, seconds: float) -> None:
    table = Table("requests", "memory, MiB", box=None)
    for sent, mebibytes in soak.memory:
        table.add_row(str(sent), f"{mebibytes:.0f}")
    Console().print(table)
    half = [point for point in soak.memory if point[0] >= soak.requests / 2]
    slope = np.polyfit([sent for sent, _ in half], [mebibytes for _, mebibytes in half], 1)[0]
    print(f"{soak.sent} requests in {seconds:.0f} s, answers {dict(sorted(soak.statuses.items()))}")
    print(f"growth over the second half: {1000 * slope:+.2f} MiB for each 1,000 requests")


if __name__ == "__main__":
    main()

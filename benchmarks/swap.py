"""Versions changed under load on a running service: `python -m benchmarks.swap PHOTOS --versions A B`.

First each version answers alone, so that its captions are known. Then so many clients ask on and on while the
versions are activated and rolled back over HTTP. Prints the answers by status, those whose text is another
version's than the one they name, and how long each change took. SEMICAP_API_KEY is sent where it is set.
"""

import argparse
import json
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

TIMEOUT_S = 600.0
QUESTION = "/v1/captions?num_beams=3"


@dataclass(frozen=True)
class Answer:
    """What a client got for a photo."""

    status: int
    photo: int
    version: str
    text: str
    seconds: float


class Client:
    """One connection to the service, kept open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        key = os.environ.get("SEMICAP_API_KEY")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(self, path: str, body: bytes = b"", content_type: str = "application/json") -> tuple[int, Any]:
        self._connection.request("POST", path, body, {**self._headers, "Content-Type": content_type})
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def caption(self, photos: Sequence[bytes], which: int) -> Answer:
        began = time.perf_counter()
        body = photos[which] + os.urandom(8)  # behind its end: other bytes, else the answer is remembered
        status, answer = self.ask(QUESTION, body, "image/jpeg")
        seconds = time.perf_counter() - began
        if status != 200:
            return Answer(status, which, "", json.dumps(answer), seconds)
        text = answer["results"][0]["captions"][0]["text"]
        return Answer(status, which, answer["model"]["version"], text, seconds)

    def change(self, path: str) -> str:
        self._connection.close()  # the service has closed it, idle as it was
        status, answer = self.ask(path, json.dumps({"override": True} if "activate" in path else {}).encode())
        if status != 200:
            raise SystemExit(f"{path}: {status} {answer}")
        return str(answer["id"])


def main() -> None:
    """Learns each version's captions, then changes versions under load."""
    arguments = _arguments()
    photos = [path.read_bytes() for path in sorted(arguments.photos.glob("*.jpg"))[: arguments.count]]
    operator = Client(arguments.url)
    known: dict[str, list[str]] = {}
    for version in arguments.versions:
        operator.change(_activate(version))
        known[version.partition(":")[2]] = [operator.caption(photos, at).text for at in range(len(photos))]
    differ = sum(len(set(texts)) > 1 for texts in zip(*known.values(), strict=True))
    print(f"{len(photos)} photos, captions differ on {differ}; {arguments.clients} clients")
    changes = (_activate(arguments.versions[0]), "/v1/models/rollback") * arguments.rounds
    with ThreadPoolExecutor(arguments.clients) as clients:
        ended = threading.Event()
        load = partial(_ask_on, arguments.url, photos, ended)
        running = [clients.submit(load, number) for number in range(arguments.clients)]
        try:
            _change_all(operator, changes, pause_s=arguments.pause_s)
        finally:
            ended.set()
        _tell([answer for each in running for answer in each.result()], known)


def _activate(version: str) -> str:
    return f"/v1/models/{quote(version, safe='')}/activate"


def _ask_on(url: str, photos: Sequence[bytes], ended: threading.Event, number: int) -> list[Answer]:
    client, answers = Client(url), list[Answer]()
    while not ended.is_set():
        answers.append(client.caption(photos, (number + len(answers)) % len(photos)))
    return answers


def _change_all(operator: Client, changes: Sequence[str], *, pause_s: float) -> None:
    for change in changes:
        time.sleep(pause_s)
        began = time.perf_counter()
        version = operator.change(change)
        name = change.rpartition("/")[2]
        print(f"{name}: {version} answers after {time.perf_counter() - began:.1f} s")
    time.sleep(pause_s)


def _tell(answers: Sequence[Answer], known: Mapping[str, Sequence[str]]) -> None:
    good = [one for one in answers if one.status == 200]
    strange = [one for one in good if one.text != known[one.version][one.photo]]
    mixed = [one for one in strange if any(one.text == texts[one.photo] for texts in known.values())]
    seconds = sorted(one.seconds for one in answers)
    print(f"answers {len(answers)}, by status {dict(Counter(one.status for one in answers))}")
    print(f"by version {dict(Counter(one.version for one in good))}")
    print(f"texts of another version {len(mixed)}, of none {len(strange) - len(mixed)}")
    print(f"seconds of an answer: median {statistics.median(seconds):.2f}, most {seconds[-1]:.2f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--versions", nargs=2, required=True, metavar="NAME:VERSION")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--count", type=int, default=32, help="photos")
    parser.add_argument("--rounds", type=int, default=2, help="of one activation and one rollback")
    parser.add_argument("--pause-s", type=float, default=10.0, help="seconds between two changes")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Damaged and hostile files, posted to a running service: each is answered, memory stays within its limit.

SEMICAP_TEST_MUTATED_IMAGES says how many, if not 300.
"""

import base64
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.service_process import Service
from tests.service import pictures
from tests.service.mutations import mutated_files

COUNT = int(os.environ.get("SEMICAP_TEST_MUTATED_IMAGES", "300"))
CLIENTS = 4
DECODE_THREADS = 2
MAX_PIXELS = 10_000_000
BYTES_PER_PIXEL = 16
"""What SEMICAP_MAX_IMAGE_PIXELS documents for each decode thread."""
MEBIBYTE = 1024 * 1024
GOOD = pictures.encoded(pictures.cat(400), "JPEG")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def service(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Service]:
    running = Service(
        tiny_checkpoint,
        tmp_path,
        SEMICAP_WORKERS="0",
        SEMICAP_FINETUNE_WORKERS="0",
        SEMICAP_MAX_IMAGE_PIXELS=str(MAX_PIXELS),
        SEMICAP_DECODE_THREADS=str(DECODE_THREADS),
        SEMICAP_DEADLINE_S="600",
        SEMICAP_BODY_TIMEOUT_S="600",
    )
    yield running
    running.end()


def post(service: Service, number: int, data: bytes) -> tuple[int, dict[str, object]]:
    """Posts a file as a raw body, a form or JSON, in turn, under a content type that may be wrong."""
    path = "/v1/captions?strategy=greedy&max_tokens=4"
    if number % 5 == 3:
        boundary = "limit"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{number}"\r\n\r\n'
        body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
        content_type = f"multipart/form-data; boundary={boundary}"
    elif number % 5 == 4:
        body = json.dumps({"images": [{"data": base64.b64encode(data).decode()}]}).encode()
        content_type = "application/json"
    else:
        body, content_type = data, ("image/jpeg", "image/png", "application/octet-stream")[number % 3]
    with closing(service.connect()) as connection:
        connection.request("POST", path, body, {"Content-Type": content_type})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_every_damaged_file_gets_an_answer_and_memory_stays_within_its_limit(service: Service) -> None:
    for number in range(5):
        assert post(service, number, GOOD)[0] == 200
    before = service.peak_bytes()
    statuses: Counter[int] = Counter()
    faults: list[str] = []

    def ask(numbered: tuple[int, tuple[str, bytes]]) -> None:
        number, (name, data) = numbered
        status, answer = post(service, number, data)
        statuses[status] += 1
        if status == 200 and not answer["results"]:
            faults.append(f"{name}: no result")
        if status not in (200, 413, 415, 422):
            faults.append(f"{name}: {status} {answer}")

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(ask, enumerate(mutated_files(COUNT, seed=5))))
    grown = service.peak_bytes() - before
    print(f"{COUNT} files: {dict(sorted(statuses.items()))}, peak memory +{grown / MEBIBYTE:.0f} MiB")
    assert [line for line in service.log if '"level": "error"' in line] == [], faults  # it has the reason
    assert faults == []
    assert min(statuses[200], statuses[422], statuses[415]) > COUNT / 100, statuses
    assert grown < DECODE_THREADS * MAX_PIXELS * BYTES_PER_PIXEL
    assert service.process.poll() is None
    assert post(service, 0, GOOD)[0] == 200

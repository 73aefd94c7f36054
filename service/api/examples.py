"""The requests and answers that /docs shows; tests/integration/test_default_model.py writes examples.json."""

import json
from pathlib import Path
from typing import Any

EXAMPLES_FILE = Path(__file__).with_name("examples.json")

JSON_REQUEST: dict[str, Any] = {
    "images": [{"data": "data:image/jpeg;base64,/9j/4AAQSkZJRg...", "file_name": "astronaut.jpg"}],
    "options": {"strategy": "beam", "num_captions": 2},
}

IMAGE_TOO_LARGE: dict[str, Any] = {
    "type": "urn:semicap:problem:image-too-large",
    "title": "The image is too large",
    "status": 413,
    "detail": "the image is 12000 x 12000; at most 50000000 pixels are decoded",
    "max_pixels": 50_000_000,
}


def captions_answer() -> dict[str, Any]:
    """What the default model answered to scikit-image's photo of an astronaut, with num_captions=2."""
    answer: dict[str, Any] = json.loads(EXAMPLES_FILE.read_text())
    return answer

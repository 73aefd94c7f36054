"""The requests and answers that /docs shows; the answers are the default model's own."""

from typing import Any

JSON_REQUEST: dict[str, Any] = {
    "images": [{"data": "data:image/jpeg;base64,/9j/4AAQSkZJRg...", "file_name": "dog.jpg"}],
    "options": {"strategy": "beam", "num_captions": 2},
}

CAPTIONS_ANSWER: dict[str, Any] | None = None

IMAGE_TOO_LARGE: dict[str, Any] = {
    "type": "urn:semicap:problem:image-too-large",
    "title": "The image is too large",
    "status": 413,
    "detail": "the image is 12000 x 12000; at most 50000000 pixels are decoded",
    "max_pixels": 50_000_000,
}

"""The requests and answers that /docs shows, each really asked of the model that comes along.

tests/integration/test_default_model.py sends the requests of examples.json again and compares the answers.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES_FILE = Path(__file__).with_name("examples.json")

IMAGE_TOO_LARGE: dict[str, Any] = {
    "type": "urn:semicap:problem:image-too-large",
    "title": "The image is too large",
    "status": 413,
    "detail": "the image is 12000 x 12000; at most 50000000 pixels are decoded",
    "max_pixels": 50_000_000,
}

_JSON = "application/json"


@dataclass(frozen=True)
class Example:
    """One request and what the default model answered.

    Args:
        operation: method and path as OpenAPI names them: "GET /v1/models/{model}".
        path: the path that was asked for, with its parameters filled in.
        request: the JSON body; None where there is none.
        media_type: of the answer.
        answer: parsed where it is JSON, else text.
    """

    operation: str
    path: str
    request: Any
    media_type: str
    answer: Any

    @property
    def method(self) -> str:
        return self.operation.partition(" ")[0]


def read_examples() -> list[Example]:
    """All examples of the file."""
    return [Example(**one) for one in json.loads(EXAMPLES_FILE.read_text())]


def add_examples(schema: dict[str, Any]) -> None:
    """Puts the examples into an OpenAPI schema."""
    for example in read_examples():
        method, _, path = example.operation.partition(" ")
        operation = schema["paths"][path][method.lower()]
        if example.request is not None:
            operation["requestBody"]["content"][_JSON]["example"] = example.request
        operation["responses"]["200"]["content"][example.media_type]["example"] = example.answer
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                given = example.path.removeprefix(path.partition("{")[0])
                parameter["example"] = given.removesuffix(path.rpartition("}")[2])

"""What OpenAPI says of dataset and job requests that FastAPI cannot derive from a signature."""

from typing import Any

from service.api.dataset_schemas import PlaceDataset
from service.jobs.uploads import ARCHIVES

_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}

DATASET_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        **{media_type: {"schema": _BINARY} for media_type in (*ARCHIVES, "image/*")},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "array", "items": _BINARY, "minItems": 1}},
                "required": ["file"],
            }
        },
        "application/json": {"schema": PlaceDataset.model_json_schema()},
    },
}

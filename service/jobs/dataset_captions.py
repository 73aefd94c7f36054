"""Captions that came with a dataset's photos: a metadata.jsonl, as Hugging Face's ImageFolder has it."""

from pathlib import Path

from service.errors import InvalidDatasetError
from service.jobs.bucket import Bucket
from service.jobs.documents import Dataset
from service.jobs.store import ArtifactStore
from service.sizes import size_text

CAPTIONS_FILE = "metadata.jsonl"

MAX_CAPTIONS_BYTES = 256 * 1024 * 1024


def read_captions(dataset: Dataset, store: ArtifactStore) -> bytes:
    """The lines, as they are; none where no captions came.

    Raises:
        InvalidDatasetError: they are longer than MAX_CAPTIONS_BYTES, or cannot be read.
    """
    try:
        data = _read(dataset, store)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InvalidDatasetError(f"{CAPTIONS_FILE} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_CAPTIONS_BYTES:
        raise InvalidDatasetError(f"{CAPTIONS_FILE} has more than {size_text(MAX_CAPTIONS_BYTES)}")
    return data


def _read(dataset: Dataset, store: ArtifactStore) -> bytes:
    if dataset.uri is not None:
        return Bucket(dataset.uri).read(CAPTIONS_FILE, max_bytes=MAX_CAPTIONS_BYTES)
    if dataset.folder is None:
        return store.get(captions_key(dataset.id)) or b""
    folder = Path(dataset.folder)
    if not (folder / CAPTIONS_FILE).resolve().is_relative_to(folder):
        raise InvalidDatasetError(f"{CAPTIONS_FILE} is a link that leads out of the folder")
    with (folder / CAPTIONS_FILE).open("rb") as file:
        return file.read(MAX_CAPTIONS_BYTES + 1)


def captions_key(dataset_id: str) -> str:
    """Where the captions of an upload lie."""
    return f"datasets/{dataset_id}/{CAPTIONS_FILE}"

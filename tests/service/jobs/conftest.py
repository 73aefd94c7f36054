"""A broker for the session; a store and its jobs for each test."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.jobs.datasets import DatasetWriter
from service.jobs.documents import CaptionJob, Dataset, new_id, now
from service.jobs.folders import dataset_of_folder
from service.jobs.parts import JobParts
from service.settings import Settings
from tests.service.jobs.broker import RunningBroker, running_broker


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with running_broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def parts(broker: RunningBroker, tmp_path: Path) -> Iterator[JobParts]:
    """The jobs of an empty store on an empty broker."""
    broker.flush()
    parts = JobParts.build(Settings(data_dir=tmp_path / "data", redis_url=broker.url))
    yield parts
    parts.close()
    broker.start()  # where the test has ended it
    broker.flush()  # whoever comes next finds no message of this store


def photo(number: int = 0) -> bytes:
    """A small JPEG whose size tells its number."""
    file = BytesIO()
    Image.new("RGB", (8 + number % 50, 8 + number // 50), (number % 256, 90, 120)).save(file, "JPEG")
    return file.getvalue()


def photo_folder(root: Path, *, good: int, broken: int = 0) -> Path:
    """A folder of numbered photos, the last ones broken."""
    root.mkdir(parents=True)
    for number in range(good + broken):
        data = photo(number)
        (root / f"{number:04d}.jpg").write_bytes(data if number < good else data[: len(data) // 2])
    return root


def dataset_of(parts: JobParts, folder: Path) -> Dataset:
    return dataset_of_folder(str(folder), store=parts.store, roots=[folder.parent], max_items=10_000)


def uploaded(parts: JobParts, count: int) -> Dataset:
    writer = DatasetWriter(parts.store, max_items=10_000)
    for number in range(count):
        writer.add_photo(f"{number:04d}.jpg", photo(number))
    return writer.finish()


def job_on(dataset: Dataset, *, chunk_items: int = 10, **more: object) -> CaptionJob:
    fields = {
        "id": new_id("job"),
        "created": now(),
        "dataset": dataset.id,
        "num_items": dataset.num_items,
        "chunk_items": chunk_items,
        **more,
    }
    return CaptionJob.model_validate(fields)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("photos")


@pytest.fixture(scope="session")
def client(
    broker: RunningBroker,
    make_client: Callable[..., TestClient],
    root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> TestClient:
    data = tmp_path_factory.mktemp("data")
    client = make_client(
        data_dir=data,
        redis_url=broker.url,
        dataset_roots=(root,),
        job_chunk_items=5,
        max_dataset_bytes=2_000_000,
        max_request_bytes=100_000,
    )
    client.app_state["parts"].jobs.parts.keeper.stop()  # a test says itself when somebody looks
    return client

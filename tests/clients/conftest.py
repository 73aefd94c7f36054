"""The real application on a port of its own, with a tiny real model."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from service.api.app import create_app
from service.registry import ServedModel
from service.settings import Settings
from tests.browser.served import served


@pytest.fixture(scope="session")
def client(tiny_model: ServedModel) -> Iterator[TestClient]:
    """The application without a socket, for request bodies that no client of ours writes."""
    with TestClient(create_app(Settings(), tiny_model)) as client:
        yield client


@pytest.fixture(scope="session")
def address(tiny_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the service listens."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"))
    with served(create_app(settings, tiny_model)) as url:
        yield url

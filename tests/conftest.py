"""What tests share: a tiny real model, and the photos that a developer may have beside the checkout."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from models.captioner import Captioner
from models.checkpoint import load_captioner
from service.registry import ServedModel, load_served_model
from tests.tiny import tiny_checkpoint as make_tiny_checkpoint

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def log_goes_to_pytest() -> None:
    """Threads of the service log while a test reads what a command prints; none of it stands in between."""
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, structlog.dev.ConsoleRenderer(colors=False)],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


@pytest.fixture(autouse=True)
def temporary_folder_stays() -> Iterator[None]:
    """`semicap api` moves that of its process, which is the tests' where they call it."""
    before = tempfile.gettempdir()
    yield
    tempfile.tempdir = before


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the real architecture at toy size and random weights."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_captioner(tiny_checkpoint: Path) -> Captioner:
    """The captioner of `tiny_checkpoint`; treat it as read-only."""
    return load_captioner(tiny_checkpoint)


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Path) -> ServedModel:
    """`tiny_checkpoint` as the service loads it; treat it as read-only."""
    return load_served_model(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data that is not part of the repository; mark the test with `shared_data` too."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"there is no {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def shared_photos(shared_data: Path) -> list[Path]:
    """The validation photos of `shared_data`."""
    return sorted((shared_data / "flickr8k" / "val").glob("*.jpg"))

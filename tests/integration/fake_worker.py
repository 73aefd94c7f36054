"""A worker process as `semicap worker` is one, but for the network: its captions cost no processor.

Each item that it begins is a line in ITEMS_LOG, so that a test can count what was run twice.
"""

import os
import sys

from service.jobs.parts import JobParts
from service.jobs.working import work
from service.log import configure_logging
from service.metrics import Metrics
from service.settings import read_settings
from tests.service.jobs.fakes import FakeCaptions

ITEM_S = 0.04


def main() -> int:
    settings = read_settings()
    configure_logging(level=settings.log_level, format="json")
    parts = JobParts.build(settings)
    log = os.open(os.environ["ITEMS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def begin(number: int) -> None:
        os.write(log, f"{number}\n".encode())

    captions = FakeCaptions(parts.datasets, item_s=ITEM_S, on_item=begin)
    return work(settings, parts, captioner=captions, metrics=Metrics())


if __name__ == "__main__":
    sys.exit(main())

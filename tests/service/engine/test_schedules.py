"""Whatever joins, leaves and is asked of the engine: every answer is the one that the image gets alone."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from models.captioner import Captioner
from models.naive import generate_naive
from service.engine.encoding import Encoding, ImageEncoder
from service.engine.engine import Engine, EngineSettings
from service.engine.options import CaptionOptions
from service.engine.work import Work
from tests.service.engine.conftest import SPREAD, WAIT_S, result
from tests.tiny import tiny_captioner

EXAMPLES = int(os.environ.get("SEMICAP_TEST_SCHEDULES", "25"))
"""Of each kind; a long run takes 500."""
IMAGES = 6
SCHEDULES = settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@dataclass(frozen=True)
class Arrival:
    """An image that comes, and after how many more arrivals its caller leaves; None stays for the answer."""

    image: int
    options: CaptionOptions
    leaves_after: int | None


@st.composite
def arrivals(draw: st.DrawFn) -> Arrival:
    """Any strategy, length, number of beams and seed; a third of the callers leave."""
    tokens = draw(st.integers(1, 12))
    options = CaptionOptions(
        strategy=draw(st.sampled_from(["greedy", "beam", "sample"])),
        num_beams=draw(st.integers(2, 6)),
        min_tokens=draw(st.sampled_from([0, 0, tokens])),
        max_tokens=tokens,
        temperature=draw(st.sampled_from([0.5, 1.5])),
        top_k=draw(st.sampled_from([0, 0, 5])),
        length_penalty=draw(st.sampled_from([0.0, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.4])),
        no_repeat_ngram_size=draw(st.sampled_from([0, 0, 2])),
        seed=draw(st.integers(0, 2**63 - 1)),
        rank_by="likelihood",
        prefix="the dog" if tokens > 4 and draw(st.booleans()) else "",
    )
    most = {"greedy": 1, "beam": options.num_beams, "sample": 4}[options.strategy]
    options = replace(options, num_captions=draw(st.integers(1, most)))
    leaves_after = draw(st.none() | st.none() | st.integers(0, 4))
    return Arrival(draw(st.integers(0, IMAGES - 1)), options, leaves_after)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    captioner = tiny_captioner(tmp_path_factory.mktemp("captioner")).requires_grad_(False)
    for parameter in captioner.decoder.parameters():
        if parameter.ndim > 1:
            parameter.mul_(SPREAD)
    return captioner


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(
        0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


class _LateEncoding(Encoding):
    """Is done when the engine has asked for the third time, as work on a GPU's other stream would be."""

    asked = 0

    def is_done(self) -> bool:
        self.asked += 1
        return self.asked > 2


class LateEncoder(ImageEncoder):
    """Encodes while the engine goes on decoding."""

    def start(self, works: Sequence[Work]) -> Encoding:
        encoding = super().start(works)
        return _LateEncoding(encoding.works, encoding.prefixes, encoding.tensors, None, encoding.began)


@pytest.fixture(scope="module", params=[ImageEncoder, LateEncoder], ids=["encoding first", "encoding beside"])
def engine(request: pytest.FixtureRequest, captioner: Captioner) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.pipeline.ImageEncoder", request.param)
        bounds = EngineSettings(precision="fp32", max_images=5, max_rows=18, encode_batch=3)
        engine = Engine(captioner, settings=bounds)
        engine.start()
        yield engine
        engine.stop(drain_s=0)


@pytest.fixture(scope="module")
def oracle(captioner: Captioner, pixels: Tensor) -> "Oracle":
    return Oracle(captioner, pixels)


class Oracle:
    """Captions of an image that is alone, by naive decoding."""

    def __init__(self, captioner: Captioner, pixels: Tensor) -> None:
        self._captioner = captioner
        self._pixels = pixels
        self.captions = cache(self._captions)

    @torch.inference_mode()
    def _captions(self, image: int, options: CaptionOptions) -> list[tuple[int, ...]]:
        captioner = self._captioner
        pixels = captioner.clip.preprocess.normalize(self._pixels[image : image + 1])
        prefix = captioner.prefix(captioner.encode_image(pixels))[0]
        generation = options.to_generation(captioner.tokenizer, max_tokens=12)
        found = generate_naive(captioner.decoder, prefix, generation, tokens=captioner.tokenizer)
        if options.strategy == "sample":
            found = sorted(found, key=lambda one: -one.log_likelihood)
        return [one.token_ids for one in found]


@seed(20260301)
@SCHEDULES
@given(schedule=st.lists(arrivals(), min_size=2, max_size=14))
def test_every_answer_is_the_one_that_the_image_gets_alone(
    engine: Engine, pixels: Tensor, oracle: Oracle, schedule: list[Arrival]
) -> None:
    futures = []
    for at, arrival in enumerate(schedule):
        futures.append(engine.submit(pixels[arrival.image], arrival.options))
        for earlier in range(at + 1):
            if schedule[earlier].leaves_after == at - earlier:
                futures[earlier].cancel()
    for arrival, future in zip(schedule, futures, strict=True):
        if future.cancelled():
            continue
        got = [caption.token_ids for caption in result(future).captions]
        if arrival.options.strategy == "sample":  # two samples may be as likely but for rounding
            assert sorted(got) == sorted(oracle.captions(arrival.image, arrival.options))
        else:
            assert got == oracle.captions(arrival.image, arrival.options)
    end = time.monotonic() + WAIT_S
    while engine.depth and time.monotonic() < end:
        time.sleep(0.005)
    assert engine.depth == 0

"""The engine on a CUDA device: graphs, bf16, encoding beside decoding."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.captioner import Captioner
from models.cuda_graphs import GraphedStep, graphed
from models.decode_step import DecodeStep
from models.decoding import Decoded, DecodingBatch
from models.generation import GenerationOptions
from models.naive import generate_naive
from service.engine.engine import Engine
from service.engine.options import CaptionOptions
from service.engine.settings import EngineSettings
from tests.models.toy import MAX_TOKENS, ToyTokens, toy_decoder, toy_prefixes
from tests.service.engine.conftest import Recorder
from tests.tiny import tiny_captioner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
WAIT_S = 60.0
SPREAD = 6
OPTIONS = (
    GenerationOptions("greedy", max_tokens=9),
    GenerationOptions(num_beams=4, num_captions=2, max_tokens=12),
    GenerationOptions("sample", num_captions=2, seed=5, max_tokens=6),
    GenerationOptions(num_beams=5, max_tokens=7, prefix_ids=(5, 6)),
)


def test_graphs_write_the_oracles_captions() -> None:
    decoder, prefixes = toy_decoder().to("cuda"), toy_prefixes(16).to("cuda")
    steps: list[DecodeStep] = []

    def prepare(step: DecodeStep) -> DecodeStep:
        steps.append(graphed(step, device=prefixes.device, max_rows=80, max_tokens=MAX_TOKENS))
        return steps[0]

    batch = DecodingBatch(
        decoder, ToyTokens(), max_images=16, max_rows=80, max_tokens=MAX_TOKENS, prepare=prepare
    )
    assert isinstance(steps[0], GraphedStep)
    assert steps[0].is_recorded
    options = [OPTIONS[at % len(OPTIONS)] for at in range(16)]
    tickets: list[int] = []
    done: dict[int, Decoded] = {}
    for turn in range(16 + MAX_TOKENS + 1):
        if turn < 16:
            tickets += batch.add(prefixes[turn : turn + 1], [options[turn]])
        done |= {tickets.index(one.ticket): one for one in batch.step()}
    for at, asked in enumerate(options):
        expected = generate_naive(decoder, prefixes[at], asked, ToyTokens())
        assert [one.token_ids for one in done[at].candidates] == [one.token_ids for one in expected]


@pytest.fixture
def captioner(tmp_path: Path) -> Captioner:
    captioner = tiny_captioner(tmp_path).requires_grad_(False)
    for parameter in captioner.decoder.parameters():
        if parameter.ndim > 1:
            parameter.mul_(SPREAD)  # random weights say the same of every image; larger ones do not
    return captioner


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(
        0, 256, (48, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture
def engine(captioner: Captioner) -> Iterator[Engine]:
    engine = Engine(captioner.to("cuda"), settings=EngineSettings(precision="fp32"))
    engine.start()
    yield engine
    engine.stop(drain_s=0)


def test_images_that_join_during_decoding_get_the_captions_they_get_alone(
    engine: Engine, pixels: Tensor
) -> None:
    asked = [
        CaptionOptions(max_tokens=12),
        CaptionOptions("greedy", max_tokens=5),
        CaptionOptions("sample", seed=3, num_captions=2, max_tokens=9),
    ]
    options = [asked[at % len(asked)] for at in range(len(pixels))]
    together = [engine.submit(*pair) for pair in zip(pixels, options, strict=True)]
    answers = [future.result(WAIT_S) for future in together]
    alone = [engine.submit(*pair).result(WAIT_S) for pair in zip(pixels[:9], options[:9], strict=True)]
    for answer, expected in zip(answers, alone, strict=False):
        assert [one.token_ids for one in answer.captions] == [one.token_ids for one in expected.captions]


def test_the_gpu_writes_what_the_cpu_writes(captioner: Captioner, pixels: Tensor) -> None:
    written = []
    for device in ("cpu", "cuda"):
        engine = Engine(captioner.to(device), settings=EngineSettings(precision="fp32"))
        engine.start()
        futures = list(map(partial(engine.submit, options=CaptionOptions(max_tokens=8)), pixels))
        written.append([future.result(WAIT_S).captions[0] for future in futures])
        engine.stop(drain_s=0)
    for cpu, gpu in zip(*written, strict=True):
        assert cpu.token_ids == gpu.token_ids
        assert cpu.clip_similarity == pytest.approx(gpu.clip_similarity, abs=1e-4)


def test_an_engine_that_starts_beside_another_records_nothing_of_its_work(
    captioner: Captioner, engine: Engine, pixels: Tensor
) -> None:
    options = CaptionOptions(max_tokens=12)
    expected = [engine.submit(image, options).result(WAIT_S).captions for image in pixels[:4]]
    for _ in range(3):  # as after changes of the model: each engine records some dozen graphs
        second = Engine(captioner, settings=EngineSettings(precision="fp32"))
        starting = threading.Thread(target=second.start)
        starting.start()
        while starting.is_alive():
            assert [engine.submit(one, options).result(WAIT_S).captions for one in pixels[:4]] == expected
        assert [second.submit(one, options).result(WAIT_S).captions for one in pixels[:4]] == expected
        second.stop(drain_s=0)
    assert engine.is_alive()


def test_bf16_is_what_a_gpu_with_units_for_it_runs(captioner: Captioner, pixels: Tensor) -> None:
    recorder = Recorder()
    engine = Engine(captioner.to("cuda"), observer=recorder)
    engine.start()
    answers = [engine.submit(image, CaptionOptions()).result(WAIT_S) for image in pixels[:4]]
    engine.stop(drain_s=0)
    is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    assert [one.precision for one in recorder.speeds] == ["bf16" if is_fast else "fp32"]
    assert all(answer.captions for answer in answers)

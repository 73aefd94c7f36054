"""Recorded decode steps, with a recording that any processor can make."""

import logging
from collections.abc import Callable

import pytest
from torch import Tensor

from models.cuda_graphs import GraphedStep, Recording, doubling
from models.decode_step import DecodeStep
from models.decoding import Decoded, DecodingBatch
from models.generation import GenerationOptions
from models.naive import generate_naive
from tests.models.toy import MAX_TOKENS, ToyTokens, toy_decoder, toy_prefixes

DECODER = toy_decoder()
PREFIXES = toy_prefixes(7)
OPTIONS = (
    GenerationOptions("greedy", max_tokens=9),
    GenerationOptions(num_beams=3, num_captions=2, max_tokens=12),
    GenerationOptions("sample", num_captions=2, seed=5, max_tokens=4),
    GenerationOptions(num_beams=5, max_tokens=7, prefix_ids=(5, 6)),
    GenerationOptions("greedy", max_tokens=2),
    GenerationOptions(num_beams=2, length_penalty=0.0, max_tokens=12),
    GenerationOptions("greedy", max_tokens=12, no_repeat_ngram_size=2),
)


class Recorder:
    """Records as a graph does: the tensors are those of the recording, only what they hold changes."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []
        self.replays: list[tuple[int, ...]] = []

    def record(self, run: Callable[[], Tensor]) -> Recording:
        logits = run()
        size = tuple(logits.shape)
        self.sizes.append(size)

        def replay() -> None:
            self.replays.append(size)
            logits.copy_(run())

        return Recording(replay, logits)


def recorded_batch(recorder: Recorder, *, rows: list[int]) -> DecodingBatch:
    def prepare(step: DecodeStep) -> DecodeStep:
        spans = doubling(4, MAX_TOKENS)
        return GraphedStep(step, rows=rows, spans=spans, device=PREFIXES.device, record=recorder.record)

    return DecodingBatch(
        DECODER, ToyTokens(), max_images=7, max_rows=24, max_tokens=MAX_TOKENS, prepare=prepare
    )


def decode_joining(batch: DecodingBatch) -> dict[int, Decoded]:
    """One image joins at each step, until all have ended."""
    tickets: list[int] = []
    done: dict[int, Decoded] = {}
    for turn in range(len(OPTIONS) + MAX_TOKENS + 1):
        if turn < len(OPTIONS):
            tickets += batch.add(PREFIXES[turn : turn + 1], [OPTIONS[turn]])
        done |= {tickets.index(one.ticket): one for one in batch.step()}
    return done


@pytest.mark.parametrize("rows", [[1, 2, 4, 8, 16, 24], [3, 5]], ids=["all sizes", "only small ones"])
def test_recorded_steps_write_the_oracles_captions(rows: list[int]) -> None:
    recorder = Recorder()
    done = decode_joining(recorded_batch(recorder, rows=rows))
    for at, options in enumerate(OPTIONS):
        expected = generate_naive(DECODER, PREFIXES[at], options, ToyTokens())
        assert [one.token_ids for one in done[at].candidates] == [one.token_ids for one in expected]
    assert len(set(recorder.replays)) > 1
    assert {size[0] for size in recorder.sizes} == set(rows)


class Refusing(Recorder):
    def record(self, run: Callable[[], Tensor]) -> Recording:
        raise RuntimeError("operation not permitted when stream is capturing")


class Wrong(Recorder):
    """Replays to other logits."""

    def record(self, run: Callable[[], Tensor]) -> Recording:
        logits = run()
        return Recording(lambda: None, logits + 1)


@pytest.mark.parametrize("recorder", [Refusing(), Wrong()])
def test_a_step_that_cannot_be_recorded_rightly_runs_as_it_is(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        done = decode_joining(recorded_batch(recorder, rows=[1, 24]))
    assert "without CUDA graphs" in caplog.text
    expected = generate_naive(DECODER, PREFIXES[0], OPTIONS[0], ToyTokens())
    assert done[0].candidates[0].token_ids == expected[0].token_ids


@pytest.mark.parametrize(
    ("first", "last", "sizes"),
    [(1, 5, [1, 2, 4, 5]), (16, 24, [16, 24]), (16, 16, [16]), (16, 12, [12])],
)
def test_sizes_double_up_to_the_largest(first: int, last: int, sizes: list[int]) -> None:
    assert doubling(first, last) == sizes

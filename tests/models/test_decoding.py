"""The in-flight batch against the oracle, whatever else is in the batch."""

import itertools
import math
from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from models import row_groups
from models.decode import decode
from models.decoder import CaptionDecoder
from models.decoding import Decoded, DecodingBatch, DecodingError
from models.generation import Candidate, GenerationOptions, Strategy
from models.naive import generate_naive
from models.next_token import draw_tokens, keep_likeliest, uniform_noise
from tests.models.toy import MAX_TOKENS, PREFIX, WIDTH, ToyTokens, toy_decoder, toy_prefixes

DECODER = toy_decoder()
CLOSING_DECODER = toy_decoder(closing_ids=(4, 11, 20, 21, 22))
"""Its first closing id is one that captions may be made to start with."""
PREFIXES = toy_prefixes(12)
TOKENS = ToyTokens()


def new_batch(*, decoder: CaptionDecoder = DECODER, max_images: int = 6, max_rows: int = 24) -> DecodingBatch:
    return DecodingBatch(decoder, TOKENS, max_images=max_images, max_rows=max_rows, max_tokens=MAX_TOKENS)


def alone(
    prefix: Tensor, options: GenerationOptions, *, decoder: CaptionDecoder = DECODER
) -> list[Candidate]:
    return generate_naive(decoder, prefix, options, tokens=TOKENS)


def finish(batch: DecodingBatch) -> dict[int, Decoded]:
    done: dict[int, Decoded] = {}
    for _ in range(MAX_TOKENS + 1):
        done |= {one.ticket: one for one in batch.step()}
    assert batch.num_images == batch.num_rows == 0
    return done


def assert_same(got: Decoded, expected: list[Candidate]) -> None:
    assert got.error is None
    assert [one.token_ids for one in got.candidates] == [one.token_ids for one in expected]
    assert [one.finish_reason for one in got.candidates] == [one.finish_reason for one in expected]
    for mine, oracle in zip(got.candidates, expected, strict=True):
        assert mine.log_likelihood == pytest.approx(oracle.log_likelihood, abs=1e-2)


@st.composite
def generation_options(draw: st.DrawFn) -> GenerationOptions:
    """Any strategy with any rules, short enough to be decoded naively."""
    strategy: Strategy = draw(st.sampled_from(get_args(Strategy)))
    num_beams = draw(st.integers(1, 5))
    max_tokens = draw(st.integers(1, 12))
    prefix_ids = draw(st.sampled_from([(), (4,), (5, 6), (7, 7, 7)]))
    return GenerationOptions(
        strategy=strategy,
        num_beams=num_beams,
        num_captions=draw(st.integers(1, {"beam": num_beams, "greedy": 1, "sample": 3}[strategy])),
        temperature=draw(st.sampled_from([0.3, 1.0, 1.7])),
        top_k=draw(st.sampled_from([0, 1, 5, 100])),
        top_p=draw(st.sampled_from([0.4, 0.9, 1.0])),
        min_tokens=draw(st.integers(0, max_tokens)),
        max_tokens=max_tokens,
        length_penalty=draw(st.sampled_from([-1.0, 0.0, 1.0, 2.0])),
        repetition_penalty=draw(st.sampled_from([0.7, 1.0, 1.5])),
        no_repeat_ngram_size=draw(st.sampled_from([0, 0, 1, 2, 3])),
        seed=draw(st.integers(0, 2**63 - 1)),
        prefix_ids=prefix_ids if len(prefix_ids) < max_tokens else (),
    )


@dataclass(frozen=True)
class Turn:
    """What happens between two steps: images join, and one of those in flight is dropped."""

    joining: list[tuple[int, GenerationOptions]]
    dropped: int | None


TURNS = st.lists(
    st.builds(
        Turn,
        joining=st.lists(st.tuples(st.integers(0, len(PREFIXES) - 1), generation_options()), max_size=3),
        dropped=st.none() | st.integers(0, 5),
    ),
    min_size=1,
    max_size=10,
)


@pytest.fixture(params=["rows alone", "rows of an image side by side"])
def _groups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's prefix is short: left to itself, a batch hardly ever groups its rows."""
    monkeypatch.setattr(row_groups, "WIDEST", 1 if request.param == "rows alone" else 3)
    monkeypatch.setattr(row_groups, "TYPICAL_TOKENS", 0)


@pytest.mark.usefixtures("_groups")
@pytest.mark.parametrize("decoder", [DECODER, CLOSING_DECODER], ids=["plain", "closing ids"])
@seed(20260101)
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(turns=TURNS)
def test_every_caption_equals_the_one_decoded_alone_whatever_joins_and_leaves(
    decoder: CaptionDecoder, turns: list[Turn]
) -> None:
    batch, asked, done = (
        new_batch(decoder=decoder),
        dict[int, tuple[int, GenerationOptions]](),
        dict[int, Decoded](),
    )
    for turn in turns:
        joining = [
            one for at, one in enumerate(turn.joining) if batch.has_room(_options(turn.joining[: at + 1]))
        ]
        if joining:
            tickets = batch.add(PREFIXES[[at for at, _ in joining]], _options(joining))
            asked |= dict(zip(tickets, joining, strict=True))
        if turn.dropped is not None and turn.dropped < len(asked):
            ticket = list(asked)[turn.dropped]
            batch.drop(ticket)
            if ticket not in done:
                del asked[ticket]
        done |= {one.ticket: one for one in batch.step()}
    done |= finish(batch)
    assert done.keys() == asked.keys()
    for ticket, (image, options) in asked.items():
        assert_same(done[ticket], alone(PREFIXES[image], options, decoder=decoder))


def _options(images: list[tuple[int, GenerationOptions]]) -> list[GenerationOptions]:
    return [options for _, options in images]


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_a_full_list_is_decoded_in_its_own_order(strategy: Strategy) -> None:
    options = GenerationOptions(strategy=strategy, num_beams=3, max_tokens=10, temperature=1.3, seed=9)
    captions = decode(DECODER, PREFIXES, options, tokens=TOKENS, max_images=5)
    assert len({one[0].token_ids for one in captions}) > len(PREFIXES) // 2
    for got, prefix in zip(captions, PREFIXES, strict=True):
        assert [one.token_ids for one in got] == [one.token_ids for one in alone(prefix, options)]


def test_an_image_whose_numbers_are_broken_fails_alone_and_leaves_its_rows_usable() -> None:
    broken = torch.full((1, PREFIX, WIDTH), torch.nan)
    for strategy in get_args(Strategy):
        options = GenerationOptions(strategy=strategy, num_beams=3, max_tokens=8)
        batch = new_batch(max_images=3, max_rows=9)
        first, second, third = batch.add(torch.cat([PREFIXES[:1], broken, PREFIXES[1:2]]), [options] * 3)
        done = finish(batch)
        assert isinstance(done[second].error, DecodingError)
        assert_same(done[first], alone(PREFIXES[0], options))
        assert_same(done[third], alone(PREFIXES[1], options))


def test_numbers_that_break_in_the_middle_leave_no_trace_in_the_cache() -> None:
    options = GenerationOptions(num_beams=3, max_tokens=10, min_tokens=8)
    batch = new_batch(max_images=2, max_rows=6)
    batch.add(PREFIXES[:2], [options] * 2)
    batch.step()
    with torch.inference_mode():
        batch._cache.tokens[:, batch._images[0].rows] = torch.nan
    done = {one.ticket: one for _ in range(2) for one in batch.step()}
    assert isinstance(done[0].error, DecodingError)
    (again,) = batch.add(PREFIXES[2:3], [options])
    done |= finish(batch)
    assert_same(done[1], alone(PREFIXES[1], options))
    assert_same(done[again], alone(PREFIXES[2], options))


def test_a_failing_prefill_takes_no_place() -> None:
    batch = new_batch(max_images=1, max_rows=4)
    options = GenerationOptions(max_tokens=6)
    with pytest.raises(RuntimeError):
        batch.add(torch.zeros(1, PREFIX, WIDTH + 1), [options])
    batch.add(PREFIXES[:1], [options])
    assert len(finish(batch)) == 1


def test_a_dropped_image_frees_its_place_at_once() -> None:
    options = GenerationOptions(num_beams=4, max_tokens=12, min_tokens=12)
    batch = new_batch(max_images=2, max_rows=8)
    first, second = batch.add(PREFIXES[:2], [options] * 2)
    batch.step()
    assert not batch.has_room([options])
    batch.drop(first)
    batch.drop(first)
    assert batch.has_room([options])
    (third,) = batch.add(PREFIXES[2:3], [options])
    done = finish(batch)
    assert done.keys() == {second, third}
    assert_same(done[third], alone(PREFIXES[2], options))


def test_a_row_leaves_when_its_own_caption_ends() -> None:
    short, long = (GenerationOptions(strategy="greedy", max_tokens=n, min_tokens=n) for n in (3, 9))
    batch = new_batch()
    batch.add(PREFIXES[:2], [short, long])
    rows = []
    while batch.num_images:
        rows.append(batch.num_rows)
        batch.step()
    assert rows == [2, 2] + [1] * 6


def test_limits_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="max_tokens is 40; the decoder writes at most"):
        DecodingBatch(DECODER, TOKENS, max_images=1, max_rows=4, max_tokens=40)
    batch = new_batch(max_images=2, max_rows=4)
    with pytest.raises(ValueError, match="max_tokens is 17; this batch was made for at most 16"):
        batch.add(PREFIXES[:1], [GenerationOptions(max_tokens=17)])
    with pytest.raises(ValueError, match="no room for 2 more images"):
        batch.add(PREFIXES[:2], [GenerationOptions(num_beams=3, max_tokens=9)] * 2)


def test_noise_is_even_and_differs_in_every_counter() -> None:
    def noise(seeds: Tensor, candidates: Tensor, positions: Tensor) -> Tensor:
        zeros = torch.zeros_like(seeds + candidates + positions)
        return uniform_noise(seeds + zeros, candidates + zeros, positions + zeros).flatten()

    near, far, zero = torch.arange(64), torch.arange(64) << 57, torch.zeros(1, dtype=torch.long)
    grid = noise(near.view(-1, 1, 1), near.view(1, -1, 1), near.view(1, 1, -1))
    assert float(grid.min()) >= 0.0
    assert float(grid.max()) < 1.0
    counts = torch.histc(grid, bins=64, min=0, max=1) / (len(grid) / 64)
    assert float((counts - 1).abs().max()) < 0.1
    neighbours = torch.stack([grid[:-1], grid[1:]]).corrcoef()[0, 1]
    assert abs(float(neighbours)) < 0.01
    assert len(set(noise(far, zero, zero).tolist())) == 64


def test_likeliest_tokens_are_those_that_transformers_keeps() -> None:
    scores = torch.randn(40, 300, generator=torch.Generator().manual_seed(0)) * 3
    for top_k, top_p in itertools.product([0, 1, 7, 1000], [0.05, 0.5, 0.95, 1.0]):
        expected = scores
        if top_k:
            expected = TopKLogitsWarper(top_k)(torch.empty(0), expected)
        if top_p < 1:
            expected = TopPLogitsWarper(top_p)(torch.empty(0), expected)
        kept = keep_likeliest(scores, top_k=torch.full((40,), top_k), top_p=torch.full((40,), top_p))
        torch.testing.assert_close(kept, expected)


def test_drawn_tokens_have_the_probabilities_of_the_model() -> None:
    count = 20_000
    scores = torch.tensor([[2.0, -math.inf, 0.5, 1.0, -1.0]]).expand(count, -1)
    noise = uniform_noise(torch.arange(count), *(torch.zeros(count, dtype=torch.long),) * 2)
    drawn = draw_tokens(
        scores,
        noise,
        temperature=torch.full((count,), 0.8),
        top_k=torch.zeros(count, dtype=torch.long),
        top_p=torch.ones(count),
    )
    shares = torch.bincount(drawn, minlength=5) / count
    torch.testing.assert_close(shares, (scores[0] / 0.8).softmax(0), atol=0.01, rtol=0)

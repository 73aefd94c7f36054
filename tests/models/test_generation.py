"""The oracle against transformers' own generation, and the options' limits."""

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from models.decoder import CaptionDecoder
from models.generation import Candidate, GenerationOptions, OptionError, Strategy, metadata_of
from models.gpt2 import load_gpt2
from models.naive import generate_naive
from tests.models.toy import MAX_TOKENS, PREFIX, VOCAB, WIDTH, ToyTokens, toy_decoder, toy_prefixes

pytestmark = pytest.mark.filterwarnings("ignore:Passing .* with `inputs_embeds`:UserWarning")

DECODER = toy_decoder()
PREFIXES = toy_prefixes(6)
TOKENS = ToyTokens()


def toy_gpt2() -> Any:
    """transformers' model of the toy decoder's size, its weights as large."""
    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=PREFIX + MAX_TOKENS,
        n_embd=WIDTH,
        n_layer=2,
        n_head=4,
        bos_token_id=None,
        eos_token_id=TOKENS.eos_id,
        pad_token_id=TOKENS.eos_id,
    )
    torch.manual_seed(3)
    model: Any = GPT2LMHeadModel(config)
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(12)
    return model


GPT2 = toy_gpt2()


def gpt2_decoder() -> CaptionDecoder:
    decoder = toy_decoder()
    load_gpt2(decoder, GPT2)
    return decoder


def transformers_captions(
    prefix: Tensor, *, max_tokens: int, count: int = 1, **settings: Any
) -> list[tuple[int, ...]]:
    rows = GPT2.generate(
        inputs_embeds=prefix.unsqueeze(0),
        max_new_tokens=max_tokens,
        num_return_sequences=count,
        do_sample=False,
        suppress_tokens=list(TOKENS.never_generated),
        **settings,
    )
    return [tuple(_until_eos(row)) for row in rows.tolist()]


def _until_eos(ids: list[int]) -> list[int]:
    return ids[: ids.index(TOKENS.eos_id)] if TOKENS.eos_id in ids else ids


def generate(
    prefix: Tensor, options: GenerationOptions, decoder: CaptionDecoder = DECODER
) -> list[Candidate]:
    return generate_naive(decoder, prefix, options, tokens=TOKENS)


RULES: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.4},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 0.8, "no_repeat_ngram_size": 3},
]


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("min_tokens", [0, 5])
def test_greedy_equals_transformers(rules: dict[str, Any], min_tokens: int) -> None:
    decoder, prefixes = gpt2_decoder(), toy_prefixes(8)
    options = GenerationOptions(strategy="greedy", max_tokens=12, min_tokens=min_tokens, **rules)
    for prefix in prefixes:
        expected = transformers_captions(prefix, max_tokens=12, min_new_tokens=min_tokens, **rules)
        assert [one.token_ids for one in generate(prefix, options, decoder)] == expected


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(("num_beams", "length_penalty"), [(2, 1.0), (4, 0.0), (5, 2.0), (3, -1.0)])
def test_beam_search_equals_transformers(
    rules: dict[str, Any], num_beams: int, length_penalty: float
) -> None:
    decoder = gpt2_decoder()
    options = GenerationOptions(
        num_beams=num_beams, num_captions=num_beams, max_tokens=12, length_penalty=length_penalty, **rules
    )
    for prefix in toy_prefixes(5):
        expected = transformers_captions(
            prefix,
            max_tokens=12,
            count=num_beams,
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=False,
            **rules,
        )
        assert [one.token_ids for one in generate(prefix, options, decoder)] == expected


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_log_likelihood_is_that_of_the_unmodified_model(strategy: Strategy) -> None:
    options = GenerationOptions(
        strategy=strategy,
        max_tokens=9,
        min_tokens=3,
        temperature=0.5,
        repetition_penalty=1.5,
        prefix_ids=(7, 8),
    )
    (candidate,) = generate(PREFIXES[0], options)
    ids = [*candidate.token_ids, *([TOKENS.eos_id] if candidate.finish_reason == "stop" else [])]
    log_probs = DECODER(PREFIXES[:1], torch.tensor([ids]))[0].log_softmax(dim=-1)
    expected = log_probs.gather(1, torch.tensor(ids).unsqueeze(1)).sum()
    assert candidate.log_likelihood == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_captions_start_with_the_prefix_and_keep_to_their_limits(strategy: Strategy) -> None:
    for prefix in PREFIXES:
        options = GenerationOptions(strategy=strategy, prefix_ids=(3, 3, 38), min_tokens=5, max_tokens=8)
        for one in generate(prefix, options):
            assert one.token_ids[:3] == (3, 3, 38)
            assert 38 not in one.token_ids[3:]
            assert 5 <= len(one.token_ids) <= 8
            assert (one.finish_reason == "length") == (len(one.token_ids) == 8)


def test_samples_follow_their_seed_and_index_alone() -> None:
    options: dict[str, Any] = {"strategy": "sample", "max_tokens": 10, "temperature": 1.5}
    three = generate(PREFIXES[0], GenerationOptions(num_captions=3, seed=5, **options))
    two = generate(PREFIXES[0], GenerationOptions(num_captions=2, seed=5, **options))
    other = generate(PREFIXES[0], GenerationOptions(num_captions=3, seed=6, **options))
    assert three[:2] == two
    assert len({one.token_ids for one in three}) == 3
    assert {one.token_ids for one in three}.isdisjoint({one.token_ids for one in other})


def test_a_caption_with_every_token_forbidden_ends() -> None:
    options = GenerationOptions(strategy="greedy", no_repeat_ngram_size=1, max_tokens=16, min_tokens=16)
    used = tuple(range(38))
    ruled = generate(PREFIXES[0], options)
    assert len(set(ruled[0].token_ids)) == 16
    assert not set(ruled[0].token_ids) - set(used)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strategy", "contrastive"),
        ("num_beams", 0),
        ("num_beams", 17),
        ("num_captions", 5),
        ("temperature", 0.0),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 1.5),
        ("min_tokens", 31),
        ("max_tokens", 0),
        ("seed", 2**63),
        ("prefix_ids", tuple(range(30))),
    ],
)
def test_an_option_outside_its_limits_is_named_with_value_and_limit(field: str, value: object) -> None:
    with pytest.raises(OptionError) as caught:
        GenerationOptions(**{field: value})  # type: ignore[arg-type]
    assert (caught.value.name, caught.value.value) == (field, value) or math.isnan(caught.value.value)  # type: ignore[arg-type]
    assert field in str(caught.value)
    assert caught.value.limit in str(caught.value)


def test_greedy_gives_one_caption_only() -> None:
    with pytest.raises(OptionError, match="num_captions is 2; it must be at most 1 with greedy"):
        GenerationOptions(strategy="greedy", num_captions=2)


def test_every_option_says_what_it_is() -> None:
    for one in fields(GenerationOptions):
        assert one.metadata["about"].endswith(".")
    assert metadata_of("num_beams")["maximum"] == 16


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_a_closing_id_ends_the_caption_and_stays_part_of_it(strategy: Strategy) -> None:
    options = GenerationOptions(strategy=strategy, num_beams=3, max_tokens=MAX_TOKENS, min_tokens=4)
    plain = [generate_naive(DECODER, prefix, options, TOKENS)[0].token_ids for prefix in PREFIXES]
    closing = plain[0][5]
    decoder = toy_decoder(closing_ids=(closing,))
    ended = [generate_naive(decoder, prefix, options, TOKENS)[0] for prefix in PREFIXES]
    assert ended[0].finish_reason == "stop"
    assert any(one.token_ids[-1] == closing for one in ended)
    for one in ended:
        assert len(one.token_ids) >= 4
        assert closing not in one.token_ids[:-1]


def test_a_closing_id_that_was_given_does_not_end_the_caption() -> None:
    options = GenerationOptions(strategy="greedy", max_tokens=6, min_tokens=6, prefix_ids=(5, 5))
    (caption,) = generate_naive(toy_decoder(closing_ids=(5,)), PREFIXES[0], options, TOKENS)
    assert len(caption.token_ids) == 6

"""The decoder against transformers' GPT-2, and its three ways of reading against each other."""

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from models.config import ConfigError, DecoderConfig
from models.decoder import CaptionDecoder
from models.gpt2 import load_gpt2
from models.row_groups import RowGroups

VOCAB, WIDTH, PREFIX = 50, 32, 3


def decoder(seed: int = 0) -> CaptionDecoder:
    torch.manual_seed(seed)
    config = DecoderConfig("clip", vocab_size=VOCAB, width=WIDTH, layers=2, heads=2, max_length=24)
    return CaptionDecoder(config, prefix_length=PREFIX).eval()


def prefixes(count: int) -> torch.Tensor:
    return torch.randn(count, PREFIX, WIDTH, generator=torch.Generator().manual_seed(1))


def captions(count: int, length: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (count, length), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_logits_equal_transformers_gpt2_on_the_same_weights() -> None:
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(  # type: ignore[no-untyped-call]
        GPT2Config(vocab_size=VOCAB, n_positions=24, n_embd=WIDTH, n_layer=2, n_head=2)
    ).eval()
    ours = decoder()
    load_gpt2(ours, gpt2)
    prefix, token_ids = prefixes(4), captions(4, 6)
    inputs = torch.cat([prefix, gpt2.transformer.wte(token_ids)], dim=1)
    expected = gpt2(inputs_embeds=inputs).logits[:, PREFIX - 1 : -1]
    torch.testing.assert_close(ours(prefix, token_ids), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "fault"),
    [
        ({"n_head": 4}, "decoder.heads is 2, theirs 4"),  # every weight would fit, and mean something else
        ({"n_embd": 64, "n_layer": 1}, "decoder.width is 32, theirs 64, decoder.layers is 2, theirs 1"),
        ({"vocab_size": 49}, "decoder.vocab_size is 50, theirs 49"),
        ({"n_positions": 20}, "decoder.max_length is 24, theirs at most 20"),
    ],
)
def test_gpt2_of_another_size_is_refused(size: dict[str, Any], fault: str) -> None:
    own = {"vocab_size": VOCAB, "n_positions": 24, "n_embd": WIDTH, "n_layer": 2, "n_head": 2}
    gpt2: Any = GPT2LMHeadModel(GPT2Config(**own | size))
    with pytest.raises(ConfigError, match=f"the GPT-2 weights do not fit: {fault}$"):
        load_gpt2(decoder(), gpt2)


@torch.no_grad()
def test_captions_that_share_a_prefix_equal_captions_that_do_not() -> None:
    ours, prefix, token_ids = decoder(), prefixes(2), captions(6, 5)
    shared = ours(prefix, token_ids, captions_per_image=3)
    torch.testing.assert_close(shared, ours(prefix.repeat_interleave(3, dim=0), token_ids))


@torch.no_grad()
def test_wanted_logits_are_those_rows_of_the_rectangle() -> None:
    ours, prefix, token_ids = decoder(), prefixes(2), captions(4, 5)
    wanted = torch.tensor(
        [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=torch.bool
    )
    expected = ours(prefix, token_ids, captions_per_image=2)[wanted]
    torch.testing.assert_close(ours(prefix, token_ids, captions_per_image=2, wanted=wanted), expected)


@torch.no_grad()
def test_cache_steps_under_autocast_stay_close_to_full_precision() -> None:
    ours, prefix, token_ids = decoder(), prefixes(2), captions(2, 2)
    expected = ours(prefix, token_ids)
    rows = torch.arange(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache = ours.new_cache(images=2, rows=2, max_tokens=2)
        first = ours.prefill(prefix, cache, rows)
        second = ours.step(
            token_ids[:, 0],
            cache,
            rows=rows,
            image_slots=rows,
            ancestors=rows.unsqueeze(1).expand(-1, 2),
            lengths=torch.zeros(2, dtype=torch.long),
        )
    assert cache.cells.dtype == torch.bfloat16
    torch.testing.assert_close(first.float(), expected[:, 0], atol=0.05, rtol=0.05)
    torch.testing.assert_close(second.float(), expected[:, 1], atol=0.05, rtol=0.05)


@torch.no_grad()
def test_advancing_token_by_token_equals_teacher_forcing() -> None:
    ours, prefix, token_ids = decoder(), prefixes(2), captions(2, 5)
    expected = ours(prefix, token_ids)
    logits, continuation = ours.begin(prefix)
    for position in range(5):
        torch.testing.assert_close(logits, expected[:, position])
        logits, continuation = ours.advance(ours.token_embedding(token_ids[:, position]), continuation)


@torch.no_grad()
def test_cached_steps_equal_teacher_forcing_with_mixed_lengths_and_scattered_slots() -> None:
    ours, prefix, token_ids = decoder(), prefixes(2), captions(4, 6)
    expected = ours(prefix, token_ids, captions_per_image=2)
    cache = ours.new_cache(images=3, rows=6, max_tokens=8)
    slots, rows = torch.tensor([2, 0]), torch.tensor([5, 1, 0, 3])
    torch.testing.assert_close(ours.prefill(prefix, cache, slots), expected[::2, 0])
    ancestors = rows.unsqueeze(1).expand(4, 8).clone()
    fed = torch.zeros(4, dtype=torch.long)
    for chosen in ([0, 1, 2, 3], [0, 2], [0, 1], [1, 2, 3], [0, 3]):
        index = torch.tensor(chosen)
        logits = ours.step(
            token_ids[index, fed[index]],
            cache,
            rows=rows[index],
            image_slots=slots.repeat_interleave(2)[index],
            ancestors=ancestors[index],
            lengths=fed[index],
        )
        fed[index] += 1
        torch.testing.assert_close(logits, expected[index, fed[index]])


@torch.no_grad()
def test_rows_of_an_image_side_by_side_read_what_they_read_alone() -> None:
    ours, generator = decoder(), torch.Generator().manual_seed(3)
    counts, lengths = (3, 1, 5), torch.tensor([4, 4, 4, 0, 2, 2, 2, 2, 2])
    rows, slots = torch.randperm(9, generator=generator), torch.tensor([2, 0, 1])
    cache = ours.new_cache(images=3, rows=9, max_tokens=8)
    ours.prefill(prefixes(3), cache, slots)
    cache.tokens.copy_(torch.randn(cache.tokens.shape, generator=generator))
    ancestors = rows.unsqueeze(1).expand(9, 6).clone()
    ancestors[:2, :3] = rows[2]  # beams that parted late
    before = cache.cells.clone()

    def step(groups: RowGroups | None) -> torch.Tensor:
        cache.cells.copy_(before)
        image_slots = slots.repeat_interleave(torch.tensor(counts))
        return ours.step(
            torch.arange(9),
            cache,
            rows=rows,
            image_slots=image_slots,
            ancestors=ancestors,
            lengths=lengths,
            groups=groups,
        )

    expected = step(None)
    for width in range(1, 6):
        groups = RowGroups.of_width(counts, width=width, device=rows.device)
        torch.testing.assert_close(step(groups), expected)


@torch.no_grad()
def test_reordering_the_ancestor_table_equals_copying_the_caption() -> None:
    """Row 1 goes on from row 0's first two tokens, as a beam does that was overtaken."""
    ours, prefix = decoder(), prefixes(1)
    first, second = captions(2, 4)
    cache = ours.new_cache(images=1, rows=2, max_tokens=8)
    ours.prefill(prefix, cache, torch.tensor([0]))
    rows, slots = torch.tensor([0, 1]), torch.tensor([0, 0])
    ancestors = rows.unsqueeze(1).expand(2, 8).clone()
    for position in range(2):
        step_tokens = torch.stack([first[position], second[position]])
        ours.step(
            step_tokens,
            cache,
            rows=rows,
            image_slots=slots,
            ancestors=ancestors,
            lengths=torch.full((2,), position),
        )
    ancestors[1] = ancestors[0]
    logits = ours.step(
        torch.stack([first[2], second[2]]),
        cache,
        rows=rows,
        image_slots=slots,
        ancestors=ancestors,
        lengths=torch.full((2,), 2),
    )
    branch = torch.cat([first[:2], second[2:4]]).unsqueeze(0)
    torch.testing.assert_close(logits[1], ours(prefix, branch)[0, 3])


def test_padding_is_never_predicted() -> None:
    ours = decoder()
    assert ours(prefixes(1), captions(1, 4)).shape[-1] == VOCAB
    assert ours.token_embedding.num_embeddings == VOCAB + 1


@torch.no_grad()
def test_shorter_prefix_takes_the_last_positions() -> None:
    """What text-only training teaches must stand where the caption stands behind a whole prefix."""
    ours, prefix, token_ids = decoder(), prefixes(2), captions(2, 5)
    shifted = decoder()
    shifted.position_embedding.weight[:-1].copy_(ours.position_embedding.weight[1:])
    shifted.prefix_length = PREFIX - 1
    torch.testing.assert_close(ours(prefix[:, 1:], token_ids), shifted(prefix[:, 1:], token_ids))

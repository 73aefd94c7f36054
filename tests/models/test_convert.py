"""Imported ClipCap weights give what the original architecture gives."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import GPT2Config, GPT2Tokenizer

from models.checkpoint import load_captioner
from models.clip import ClipEncoder
from models.config import ClipConfig
from models.convert import ConversionError, clipcap_captioner, import_clipcap
from models.decode import decode
from models.generation import GenerationOptions
from models.tokenizer import Gpt2Vocabulary
from tests.models.clipcap import ClipCap
from tests.tiny import byte_level_bpe, bytes_alphabet, tiny_clip

pytestmark = pytest.mark.filterwarnings("ignore:Passing .* with `inputs_embeds`:UserWarning")

Kind = Literal["mlp", "transformer"]
KINDS: tuple[Kind, ...] = ("mlp", "transformer")
TOKENIZER = byte_level_bpe()
(FULL_STOP,) = TOKENIZER.encode(".")


def original(kind: Kind, *, embed_dim: int = 16) -> ClipCap:
    """The original at toy size, its weights so large that captions differ and some end with a full stop."""
    torch.manual_seed(5)
    gpt2 = GPT2Config(vocab_size=TOKENIZER.vocab_size, n_embd=128, n_layer=2, n_head=2, n_positions=96)
    model = ClipCap(kind, gpt2, embed_dim=embed_dim, prefix_length=6, clip_length=4, layers=3)
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(4)
    model.gpt.transformer.wte.weight[FULL_STOP] *= 1.5
    return model


def original_embedding(clip: ClipEncoder, pixels: Tensor, kind: Kind) -> Tensor:
    """What the published inference code of each kind feeds."""
    raw: Tensor = clip.model.encode_image(pixels)  # type: ignore[operator]
    return raw if kind == "mlp" else functional.normalize(raw, dim=-1)


@pytest.fixture
def clip(tmp_path: Path) -> ClipEncoder:
    return tiny_clip(tmp_path / "clip")


def convert(weights: Path, folder: Path, **settings: Any) -> None:
    (folder / "gpt2").mkdir(exist_ok=True)
    TOKENIZER.save(folder / "gpt2")
    import_clipcap(
        weights,
        folder / "imported",
        name="clipcap",
        clip_config=ClipConfig(f"local-dir:{folder / 'clip'}"),
        gpt2_files=folder / "gpt2",
        **settings,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@torch.no_grad()
def test_imported_weights_give_the_original_s_logits_and_captions(
    clip: ClipEncoder, tmp_path: Path, kind: Kind, suffix: str
) -> None:
    model, file = original(kind), tmp_path / f"weights{suffix}"
    state = model.published_state()
    if suffix == ".pt":
        torch.save(state, file)
    else:
        save_file({name: value.clone() for name, value in state.items()}, file)
    convert(file, tmp_path)
    captioner = load_captioner(tmp_path / "imported")
    pixels = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    embedding, features = original_embedding(clip, pixels, kind), captioner.encode_image(pixels)

    token_ids = torch.randint(0, TOKENIZER.vocab_size, (6, 9))
    ours, theirs = captioner(features, token_ids), model(embedding, token_ids[:, :-1])
    assert float(theirs.std()) > 0.1
    assert float((ours - theirs).abs().max()) < 1e-4

    options = GenerationOptions(strategy="greedy", max_tokens=20)
    decoded = decode(captioner.decoder, captioner.prefix(features), options, tokens=captioner.tokenizer)
    expected = [model.greedy(one[None], full_stop=FULL_STOP, max_tokens=20) for one in embedding]
    assert [list(one[0].token_ids) for one in decoded] == expected
    assert len({tuple(one) for one in expected}) > 3
    assert {one[-1] == FULL_STOP for one in expected} == {True, False}


@pytest.mark.slow
@torch.no_grad()
def test_full_size_mlp_gives_the_original_s_logits() -> None:
    torch.manual_seed(0)
    model = ClipCap("mlp", GPT2Config(), embed_dim=512).eval()
    fillers = [f"filler{number}" for number in range(50257 - 257)]
    vocab = {token: id for id, token in enumerate([*bytes_alphabet(), *fillers, "<|endoftext|>"])}
    config = ClipConfig("ViT-B-32")
    clip = ClipEncoder.load(config).eval()
    captioner = clipcap_captioner(
        model.published_state(),
        clip_config=config,
        clip=clip,
        tokenizer=Gpt2Vocabulary(GPT2Tokenizer(vocab=vocab, merges=[])),
    )
    assert captioner.config.max_tokens == 67
    pixels, token_ids = torch.randn(2, 3, 224, 224), torch.randint(0, 50257, (2, 20))
    theirs = model(original_embedding(clip, pixels, "mlp"), token_ids[:, :-1])
    ours = captioner(captioner.encode_image(pixels), token_ids)
    assert float((ours - theirs).abs().max()) < 1e-4


@torch.no_grad()
def test_embedding_that_training_normalised_can_be_said(clip: ClipEncoder, tmp_path: Path) -> None:
    model = original("mlp")
    torch.save(model.published_state(), tmp_path / "weights.pt")
    convert(tmp_path / "weights.pt", tmp_path, embedding="unit")
    captioner = load_captioner(tmp_path / "imported")
    pixels, token_ids = torch.randn(2, 3, 32, 32), torch.randint(0, 200, (2, 5))
    theirs = model(original_embedding(clip, pixels, "transformer"), token_ids[:, :-1])
    assert float((captioner(captioner.encode_image(pixels), token_ids) - theirs).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("gpt.transformer.wte.weight"), "no transformer.wte"),
        (lambda state: state.pop("gpt.transformer.h.1.mlp.c_fc.bias"), r"Missing key.*h\.1\.mlp\.c_fc\.bias"),
        (lambda state: state.pop("clip_project.model.2.weight"), "neither ClipCap's MLP"),
        (lambda state: state.update({"gpt.lm_head.weight": torch.zeros(3)}), "lm_head is not tied"),
        (lambda state: state.update({"clip_project.more": torch.zeros(3)}), "Unexpected key.*more"),
        (lambda state: [state.pop(name) for name in list(state) if "gpt." in name], r"named gpt\.…"),
    ],
)
def test_weights_of_another_layout_are_refused_by_name(clip: ClipEncoder, change: Any, message: str) -> None:
    state = original("mlp").published_state()
    change(state)
    with pytest.raises(ConversionError, match=message):
        clipcap_captioner(state, clip_config=ClipConfig("tiny"), clip=clip, tokenizer=TOKENIZER)


def test_weights_for_another_clip_are_refused_with_both_sizes(clip: ClipEncoder) -> None:
    state = original("mlp", embed_dim=24).published_state()
    with pytest.raises(ConversionError, match=r"embeddings of 24, tiny-clip gives 16.*RN50x4"):
        clipcap_captioner(state, clip_config=ClipConfig("tiny"), clip=clip, tokenizer=TOKENIZER)

"""Captioners laid out for a CPU: towers see and read nearly the same."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import open_clip
import pytest
import torch
from open_clip.timm_model import TimmModel
from torch import nn
from torch.nn import functional

from models import packed_captioner, packing
from models.captioner import Captioner
from models.checkpoint import load_captioner
from models.config import MappingConfig
from models.fused_convolution import FusedConvolution
from models.image_features import ImageFeatures
from models.manifest import DEFAULT_CHECKPOINT
from models.packed_captioner import packed
from models.packed_transformer import PackedAttention
from models.packing import ExactLinear, Int8Linear, PackedLinear, can_pack
from tests.tiny import tiny_captioner

CAPTIONS = ("a dog", "Two girls play in the snow.", "A man in a red shirt rides a bike down the street", "7")
needs_int8 = pytest.mark.skipif(not can_pack("int8"), reason="FBGEMM is not here")


@needs_int8
@pytest.mark.parametrize("kind", ["mlp", "grid", "transformer"])
def test_prefix_is_the_same_alone_and_among_others(
    tmp_path: Path, kind: Literal["mlp", "grid", "transformer"]
) -> None:
    mapping = MappingConfig(kind, 3, grid_cells=4, grid_channels=32, heads=2)
    captioner = tiny_captioner(tmp_path, mapping=mapping).requires_grad_(False)
    fast, generator = packed(captioner, "int8"), torch.Generator().manual_seed(0)
    features = ImageFeatures(
        functional.normalize(torch.randn(24, 16, generator=generator), dim=-1),
        torch.randn(24, 4, 32, generator=generator),
    )
    together, expected = fast.prefix(features), captioner.prefix(features)
    assert (together - expected).norm() < 0.05 * expected.norm()
    for at in range(24):
        one = ImageFeatures(features.embedding[at : at + 1], features.grid[at : at + 1])  # type: ignore[index]
        assert torch.equal(fast.prefix(one), together[at : at + 1])


@needs_int8
def test_convolutional_tower_sees_nearly_the_same_and_the_same_alone_and_among_others() -> None:
    captioner = load_captioner(DEFAULT_CHECKPOINT)
    fast = packed(captioner, "int8")
    pixels = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together, expected = fast.encode_image(pixels), captioner.encode_image(pixels)
        alone = fast.encode_image(pixels[2:3])
    assert (together.embedding * expected.embedding).sum(dim=1).min() > 0.99
    # a tower that stays in fp32 rounds its convolutions by the size of the batch
    tolerance = 0.0 if can_pack("bf16") else 1e-4
    assert alone.grid is not None
    assert together.grid is not None
    torch.testing.assert_close(alone.embedding, together.embedding[2:3], rtol=0.0, atol=tolerance)
    torch.testing.assert_close(alone.grid, together.grid[2:3], rtol=0.0, atol=tolerance)
    assert fast.clip.text.token_embedding is captioner.clip.text.token_embedding


def test_convolutions_are_fused_in_fp32_and_the_plain_tower_is_left_alone() -> None:
    captioner = load_captioner(DEFAULT_CHECKPOINT)
    fast = packed(captioner, "fp32")
    assert any(isinstance(layer, FusedConvolution) for layer in fast.clip.visual.modules())
    assert not any(isinstance(layer, FusedConvolution) for layer in captioner.clip.visual.modules())
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        fused, expected = fast.encode_image(pixels), captioner.encode_image(pixels)
    torch.testing.assert_close(fused.embedding, expected.embedding, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(fused.grid, expected.grid, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize(("tower", "count"), [("vit_tiny_patch16_224", 0), ("resnet18", 20)])
def test_other_towers_of_timm_are_fused_as_far_as_they_can_be(tower: str, count: int) -> None:
    captioner = load_captioner(DEFAULT_CHECKPOINT)
    pool = "token" if count == 0 else "avg"
    visual = TimmModel(tower, 256, image_size=224, pool=pool, proj="linear", pretrained=False).eval()
    captioner.clip = captioner.clip.with_visual(visual)
    fast = packed(captioner, "fp32").clip.visual
    assert sum(isinstance(layer, FusedConvolution) for layer in fast.modules()) == count
    assert (fast is visual) == (count == 0), "what is not changed is not held twice"


@needs_int8
def test_machine_that_has_int8_alone_keeps_its_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packing.LAYERS, "fp32", ())
    visual = packed(load_captioner(DEFAULT_CHECKPOINT), "int8").clip.visual
    assert not any(isinstance(layer, FusedConvolution) for layer in visual.modules())


def test_tower_that_would_see_something_else_when_fused_is_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrongly(tower: torch.nn.Module) -> int:
        for layer in tower.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.zeros_(layer.weight)
        return 1

    monkeypatch.setattr(packed_captioner, "fuse_convolutions", wrongly)
    captioner = load_captioner(DEFAULT_CHECKPOINT)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        seen = packed(captioner, "fp32").encode_image(pixels).embedding
        torch.testing.assert_close(seen, captioner.encode_image(pixels).embedding)


@pytest.mark.parametrize("layer", [ExactLinear, partial(PackedLinear, dtype=torch.float32)])
@pytest.mark.parametrize("is_causal", [True, False])
def test_packed_attention_is_torchs(layer: packing.Layer, is_causal: bool) -> None:
    if layer is not ExactLinear and not can_pack("fp32"):
        pytest.skip("oneDNN is not here")
    attention, x = nn.MultiheadAttention(64, 4, batch_first=True).eval(), torch.randn(3, 7, 64)
    nn.init.normal_(attention.in_proj_bias)
    nn.init.normal_(attention.out_proj.bias)
    mask = torch.full((7, 7), -torch.inf).triu(1) if is_causal else None
    with torch.inference_mode():
        expected, _ = attention(x, x, x, need_weights=False, attn_mask=mask)
        mixed, _ = PackedAttention(attention, layer)(x, x, x, need_weights=False, attn_mask=mask)
    torch.testing.assert_close(mixed, expected, rtol=0.0, atol=1e-5)


@needs_int8
def test_text_tower_in_int8_reads_nearly_the_same_and_the_same_alone_and_among_others() -> None:
    captioner = load_captioner(DEFAULT_CHECKPOINT)
    fast = packed(captioner, "int8")
    assert _count(fast.clip.text.transformer, Int8Linear) == 4 * 3
    assert _count(captioner.clip.text.transformer, Int8Linear) == 0
    with torch.inference_mode():
        together, expected = fast.clip.encode_captions(CAPTIONS), captioner.clip.encode_captions(CAPTIONS)
        alone = torch.cat([fast.clip.encode_captions([caption]) for caption in CAPTIONS])
    assert (together * expected).sum(dim=1).min() > 0.999
    torch.testing.assert_close(alone, together, rtol=0.0, atol=1e-3)


@needs_int8
@pytest.mark.parametrize(("tower", "linears"), [("open_clip", 4 * 2), ("vit_tiny_patch16_224", 4 * 12)])
def test_image_transformer_in_int8_sees_nearly_the_same(tower: str, linears: int) -> None:
    captioner = load_captioner(DEFAULT_CHECKPOINT)
    captioner.clip = captioner.clip.with_visual(
        _open_clip_tower() if tower == "open_clip" else _timm_tower(tower)
    )
    fast, pixels = packed(captioner, "int8"), torch.randn(4, 3, 224, 224)
    assert _count(fast.clip.visual, Int8Linear) >= linears
    assert _count(captioner.clip.visual, Int8Linear) == 0
    with torch.inference_mode():
        seen, expected = fast.encode_image(pixels), captioner.encode_image(pixels)
        assert captioner.encode_image(pixels).embedding.equal(expected.embedding)
    assert (seen.embedding * expected.embedding).sum(dim=1).min() > 0.995
    assert seen.grid is not None
    assert expected.grid is not None
    assert (seen.grid - expected.grid).norm() < 0.05 * expected.grid.norm()


def _open_clip_tower() -> nn.Module:
    vision = {"image_size": 224, "layers": 2, "width": 128, "patch_size": 32, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 2, "layers": 1}
    return open_clip.CLIP(256, vision, text, output_dict=False).visual.eval()  # type: ignore[no-any-return]


def _timm_tower(name: str) -> nn.Module:
    tower: nn.Module = TimmModel(name, 256, image_size=224, pool="token", proj="linear", pretrained=False)
    return tower.eval()


def _count(module: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(layer, kind) for layer in module.modules())


@needs_int8
def test_transformer_that_reads_its_weights_by_name_stays_as_it_is() -> None:
    captioner = load_captioner(DEFAULT_CHECKPOINT)
    visual = _timm_tower("eva02_tiny_patch14_224")
    captioner.clip = captioner.clip.with_visual(visual)
    assert packed(captioner, "int8").clip.visual is visual


@needs_int8
@pytest.mark.parametrize("tower", ["image", "text"])
def test_transformer_that_int8_would_blind_stays_as_it_is(tower: str) -> None:
    captioner = load_captioner(DEFAULT_CHECKPOINT)
    captioner.clip = captioner.clip.with_visual(_open_clip_tower())
    part: Any = captioner.clip.visual if tower == "image" else captioner.clip.text
    for block in part.transformer.resblocks:  # one channel so large that the others round to nothing
        block.ln_1.weight.data[0] = block.ln_2.weight.data[0] = 1e4
        block.attn.in_proj_weight.data[:, 0] = block.mlp.c_fc.weight.data[:, 0] = 0.0
    clip = packed(captioner, "int8").clip
    assert _count(clip.visual, Int8Linear) == (0 if tower == "image" else 8)
    assert _count(clip.text.transformer, Int8Linear) == (0 if tower == "text" else 12)


@needs_int8
def test_text_tower_of_its_own_is_packed_and_the_rest_of_it_shared(tmp_path: Path) -> None:
    captioner = _with_separate_text(tiny_captioner(tmp_path))
    assert captioner.clip.text is not captioner.clip.model
    fast = packed(captioner, "int8")
    assert _count(fast.clip.model, Int8Linear) > 0
    assert _count(captioner.clip.model, Int8Linear) == 0
    assert fast.clip.text.token_embedding is captioner.clip.text.token_embedding
    with torch.inference_mode():
        read, expected = fast.clip.encode_captions(["a dog"]), captioner.clip.encode_captions(["a dog"])
    assert 0.99 < float((read * expected).sum()) < 1.0


def _with_separate_text(captioner: Captioner) -> Captioner:
    """open_clip's other way of building a CLIP: the text tower is a module of its own."""
    plain = captioner.clip
    text = {"context_length": 77, "vocab_size": plain.vocab_size, "width": 32, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    model = open_clip.CustomTextCLIP(plain.embed_dim, vision, text, output_dict=False).eval()
    captioner.clip = type(plain)(model, plain.tokenizer, plain.preprocess, name="separate", revision="1")
    return captioner


@needs_int8
def test_int8_asked_for_twice_is_the_same(tmp_path: Path) -> None:
    captioner = tiny_captioner(tmp_path)
    with torch.inference_mode():
        first, second = (packed(captioner, "int8").clip.encode_captions(CAPTIONS) for _ in range(2))
    assert torch.equal(first, second)

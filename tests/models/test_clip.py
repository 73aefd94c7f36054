"""CLIP's towers against open_clip's own functions."""

from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional

from models.clip import ClipEncoder
from models.clip_folder import LOCAL_WEIGHTS, ClipError, clip_facts
from models.config import ClipConfig
from tests.tiny import tiny_clip

CAPTIONS = ["the dog runs in the snow", "a cat", "man on water"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@torch.no_grad()
def test_text_cut_to_longest_caption_equals_full_context(clip: ClipEncoder) -> None:
    padded = clip.tokenizer(CAPTIONS)
    expected = clip.model.encode_text(padded, normalize=True)  # type: ignore[operator]
    assert clip.tokenize(CAPTIONS).shape[1] < padded.shape[1]
    torch.testing.assert_close(clip.encode_captions(CAPTIONS), expected)
    torch.testing.assert_close(clip.encode_text(padded), expected)


@torch.no_grad()
def test_soft_text_equals_text_on_hard_one_hots(clip: ClipEncoder) -> None:
    token_ids = clip.tokenize(CAPTIONS)
    ends = (token_ids == clip.tokenizer.eot_token_id).int().argmax(dim=1)
    one_hot = functional.one_hot(token_ids, clip.vocab_size).float()
    torch.testing.assert_close(clip.encode_soft_text(one_hot, ends), clip.encode_text(token_ids))


def test_what_stands_after_the_end_has_no_influence(clip: ClipEncoder) -> None:
    token_ids = clip.tokenize(CAPTIONS)
    ends = (token_ids == clip.tokenizer.eot_token_id).int().argmax(dim=1)
    one_hot = functional.one_hot(token_ids, clip.vocab_size).float().requires_grad_()
    clip.encode_soft_text(one_hot, ends).sum().backward()  # type: ignore[no-untyped-call]
    assert one_hot.grad is not None
    for caption, end in enumerate(ends.tolist()):
        assert one_hot.grad[caption, : end + 1].abs().sum() > 0
        assert one_hot.grad[caption, end + 1 :].abs().sum() == 0


@torch.no_grad()
def test_image_embedding_equals_open_clip(clip: ClipEncoder) -> None:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = clip.model.encode_image(pixels, normalize=True)  # type: ignore[operator]
    if isinstance(expected, tuple):
        expected = functional.normalize(expected[0], dim=-1)
    features = clip.encode_image(pixels)
    torch.testing.assert_close(features.embedding, expected)
    assert features.grid is not None
    assert features.grid.shape == (2, 4, 32)


def test_saved_clip_loads_through_open_clips_own_local_path(clip: ClipEncoder, tmp_path: Path) -> None:
    saved = tiny_clip(tmp_path)
    again = ClipEncoder.load(ClipConfig(f"local-dir:{tmp_path}"))
    assert again.revision == saved.revision
    torch.testing.assert_close(again.encode_captions(CAPTIONS), saved.encode_captions(CAPTIONS))
    assert isinstance(open_clip.create_model(f"local-dir:{tmp_path}"), open_clip.CLIP)


@pytest.mark.slow
@torch.no_grad()
def test_reference_clip_by_name_at_random_weights() -> None:
    clip = ClipEncoder.load(ClipConfig("ViT-B-32")).eval()
    assert (clip.embed_dim, clip.context_length, clip.vocab_size) == (512, 77, 49408)
    expected = clip.model.encode_text(clip.tokenizer(CAPTIONS), normalize=True)  # type: ignore[operator]
    torch.testing.assert_close(clip.encode_captions(CAPTIONS), expected, atol=1e-5, rtol=1e-4)
    pixels = clip.preprocess(Image.new("RGB", (300, 200), "red")).unsqueeze(0)
    assert clip.encode_image(pixels).embedding.shape == (1, 512)


def test_unknown_model_name_is_named() -> None:
    with pytest.raises(ClipError, match="no-such-clip"):
        ClipEncoder.load(ClipConfig("no-such-clip"))


def test_folder_without_weights_is_named(tmp_path: Path) -> None:
    tiny_clip(tmp_path)
    (tmp_path / LOCAL_WEIGHTS).unlink()
    with pytest.raises(ClipError, match=LOCAL_WEIGHTS):
        ClipEncoder.load(ClipConfig(f"local-dir:{tmp_path}"))


@pytest.mark.parametrize(
    ("pretrained", "quick"), [("openai", True), ("laion2b_s34b_b79k", False), (None, False)]
)
def test_weights_trained_with_quick_gelu_get_it(
    monkeypatch: pytest.MonkeyPatch, pretrained: str | None, quick: bool
) -> None:
    asked: dict[str, object] = {}

    def create_model(name: str, **settings: object) -> None:
        asked.update(settings)
        raise RuntimeError("not downloaded in a test")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    with pytest.raises(ClipError, match="not downloaded in a test"):
        ClipEncoder.load(ClipConfig("ViT-B-32", pretrained))
    assert asked["force_quick_gelu"] is quick


def test_facts_of_a_clip_are_those_of_the_loaded_one(tmp_path: Path) -> None:
    clip = tiny_clip(tmp_path / "clip")
    facts = clip_facts(ClipConfig("local-dir:clip"), beside=tmp_path)
    assert (facts.name, facts.revision, facts.embed_dim) == (clip.name, clip.revision, clip.embed_dim)
    assert clip_facts(ClipConfig("ViT-B-32", "openai")).embed_dim == 512
    with pytest.raises(ClipError, match="does not know"):
        clip_facts(ClipConfig("ViT-B-33"))
    with pytest.raises(ClipError, match="has no"):
        clip_facts(ClipConfig("local-dir:none"), beside=tmp_path)


def test_coca_which_pools_at_a_token_of_its_own_is_refused(clip: ClipEncoder) -> None:
    """Read at the end-of-text, its captions would get other vectors than CoCa's, without a word."""
    coca = torch.nn.Module()
    coca.text = open_clip.transformer.TextTransformer(
        context_length=8, vocab_size=16, width=8, heads=1, layers=1, output_dim=8, embed_cls=True
    )
    with pytest.raises(ClipError, match="coca: its text tower is not"):
        ClipEncoder(coca, clip.tokenizer, clip.preprocess, name="coca", revision="random")

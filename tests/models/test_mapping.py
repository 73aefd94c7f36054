"""The transformer mapping network against one written apart from it, with ClipCap's own parameter layout."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.checkpoint import load_captioner, save_captioner
from models.config import ConfigError, MappingConfig
from models.image_features import ImageFeatures
from models.manifest import Provenance
from models.mapping import TransformerMapping, build_mapping
from tests.tiny import tiny_captioner

CONFIG = MappingConfig("transformer", prefix_length=3, layers=2, heads=4, clip_length=5)
EMBED_DIM, WIDTH = 12, 16


@pytest.fixture
def mapping() -> TransformerMapping:
    torch.manual_seed(0)
    return TransformerMapping(CONFIG, embed_dim=EMBED_DIM, width=WIDTH)


@pytest.fixture
def features() -> ImageFeatures:
    return ImageFeatures(torch.randn(2, EMBED_DIM, generator=torch.Generator().manual_seed(1)))


def test_transformer_equals_the_formula_of_clipcap(
    mapping: TransformerMapping, features: ImageFeatures
) -> None:
    expected = torch.stack([_prefix_of(mapping.state_dict(), vector) for vector in features.embedding])
    torch.testing.assert_close(mapping(features), expected, rtol=1e-5, atol=1e-6)


def test_defaults_have_the_published_parameters() -> None:
    with torch.device("meta"):
        network = build_mapping(MappingConfig("transformer"), embed_dim=512, width=768)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["linear.weight"] == (7680, 512)
    assert shapes["prefix_const"] == (10, 768)
    last_layer = {
        name.removeprefix("layers.7."): shape for name, shape in shapes.items() if "layers.7." in name
    }
    norms = {f"norm{place}.{kind}": (768,) for place in (1, 2) for kind in ("weight", "bias")}
    assert last_layer == norms | {
        "to_queries.weight": (768, 768),
        "to_keys_values.weight": (1536, 768),
        "project.weight": (768, 768),
        "project.bias": (768,),
        "fc1.weight": (1536, 768),
        "fc1.bias": (1536,),
        "fc2.weight": (768, 1536),
        "fc2.bias": (768,),
    }
    assert len(shapes) == 3 + 8 * 12  # linear has two, the constants are one


def test_every_prefix_vector_depends_on_the_image_and_on_every_constant(
    mapping: TransformerMapping, features: ImageFeatures
) -> None:
    embedding = features.embedding.requires_grad_()
    prefix = mapping(ImageFeatures(embedding))
    assert prefix.shape == (2, 3, WIDTH)
    for position in range(3):
        (of_image, of_constants) = torch.autograd.grad(
            prefix[0, position].square().sum(), (embedding, mapping.prefix_const), retain_graph=True
        )
        assert of_image[0].abs().sum() > 0
        assert of_image[1].abs().sum() == 0
        assert (of_constants.abs().sum(dim=1) > 0).all()


def test_checkpoint_keeps_the_network_and_its_settings(tmp_path: Path) -> None:
    captioner = tiny_captioner(tmp_path, mapping=CONFIG)
    save_captioner(
        captioner,
        tmp_path / "checkpoint",
        provenance=Provenance("tiny", "supervised"),
        card="",
        clip_folder=tmp_path / "clip",
    )
    loaded = load_captioner(tmp_path / "checkpoint")
    assert loaded.config.mapping == CONFIG
    features = ImageFeatures(torch.randn(2, captioner.clip.embed_dim))
    assert torch.equal(loaded.prefix(features), captioner.prefix(features))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="width 16 is not a multiple of the mapping's 3 heads"):
        TransformerMapping(replace(CONFIG, heads=3), embed_dim=EMBED_DIM, width=WIDTH)


def _prefix_of(weights: dict[str, Tensor], embedding: Tensor) -> Tensor:
    """ClipCap's transformer for one image, one head and one query at a time."""
    image = (weights["linear.weight"] @ embedding + weights["linear.bias"]).view(CONFIG.clip_length, WIDTH)
    x = torch.cat([image, weights["prefix_const"]])
    for layer in range(CONFIG.layers):
        own = {name.removeprefix(f"layers.{layer}."): value for name, value in weights.items()}
        x = x + _attention(own, _layer_norm(x, own["norm1.weight"], own["norm1.bias"]))
        hidden = (
            _layer_norm(x, own["norm2.weight"], own["norm2.bias"]) @ own["fc1.weight"].T + own["fc1.bias"]
        )
        x = x + hidden.clamp(min=0) @ own["fc2.weight"].T + own["fc2.bias"]
    return x[CONFIG.clip_length :]


def _attention(own: dict[str, Tensor], x: Tensor) -> Tensor:
    head_width = WIDTH // CONFIG.heads
    queries, both = x @ own["to_queries.weight"].T, x @ own["to_keys_values.weight"].T
    keys, values = both[:, :WIDTH], both[:, WIDTH:]
    mixed = torch.zeros_like(x)
    for head in range(CONFIG.heads):
        of_head = slice(head * head_width, (head + 1) * head_width)
        for position in range(len(x)):
            scores = keys[:, of_head] @ queries[position, of_head] / head_width**0.5
            mixed[position, of_head] = scores.softmax(dim=0) @ values[:, of_head]
    return mixed @ own["project.weight"].T + own["project.bias"]


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * weight + bias

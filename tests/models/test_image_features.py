"""Mapping networks: what they read of the image."""

from typing import Literal

import pytest
import torch

from models.config import ConfigError, MappingConfig
from models.image_features import ImageFeatures
from models.mapping import build_mapping


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
@torch.no_grad()
def test_raw_embedding_is_read_at_its_own_length(kind: Literal["mlp", "transformer"]) -> None:
    unit = torch.nn.functional.normalize(torch.randn(2, 8), dim=-1)
    features = ImageFeatures(unit, norm=torch.tensor([10.0, 0.5]))
    raw = build_mapping(MappingConfig(kind, 2, embedding="raw"), embed_dim=8, width=8)
    plain = build_mapping(MappingConfig(kind, 2), embed_dim=8, width=8)
    plain.load_state_dict(raw.state_dict())
    scaled = ImageFeatures(unit * torch.tensor([[10.0], [0.5]]))
    torch.testing.assert_close(raw(features), plain(scaled))
    assert not torch.allclose(raw(features), plain(features))


def test_raw_embedding_of_unknown_length_is_refused() -> None:
    mapping = build_mapping(MappingConfig("mlp", 2, embedding="raw"), embed_dim=8, width=4)
    with pytest.raises(ConfigError, match="have no length"):
        mapping(ImageFeatures(torch.randn(2, 8)))


def test_slices_and_joins_keep_what_features_have() -> None:
    whole = ImageFeatures(torch.randn(4, 8), torch.randn(4, 3, 2), torch.rand(4))
    joined = ImageFeatures.cat([whole[:1], whole[1:]])
    assert joined.grid is not None
    assert joined.norm is not None
    assert torch.equal(joined.embedding, whole.embedding)
    assert torch.equal(joined.norm, whole.norm)  # type: ignore[arg-type]

"""Mapping networks: image features to the prefix that the decoder reads."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.config import ConfigError, MappingConfig
from models.image_features import ImageFeatures


class MlpMapping(nn.Module):
    """ClipCap's MLP (arXiv 2111.09734): image embedding, one hidden tanh layer, `prefix_length` vectors."""

    def __init__(self, config: MappingConfig, *, embed_dim: int, width: int) -> None:
        super().__init__()
        self.prefix_length = config.prefix_length
        self.embedding = config.embedding
        out = width * config.prefix_length
        hidden = config.hidden_width or out // 2
        self.layers = nn.Sequential(nn.Linear(embed_dim, hidden), nn.Tanh(), nn.Linear(hidden, out))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: ImageFeatures) -> Float[Tensor, "batch prefix width"]:
        prefix: Tensor = self.layers(embedding_of(features, self.embedding))
        return self.dropout(prefix.view(len(prefix), self.prefix_length, -1))  # type: ignore[no-any-return]


class GridMapping(nn.Module):
    """One vector for each cell of the feature map, then the MLP's prefix.

    Features without a grid (captions that stand in for images in text-only training) give the MLP's part.
    """

    def __init__(self, config: MappingConfig, *, embed_dim: int, width: int) -> None:
        super().__init__()
        self.mlp = MlpMapping(config, embed_dim=embed_dim, width=width)
        self.norm = nn.LayerNorm(config.grid_channels)
        self.project = nn.Linear(config.grid_channels, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: ImageFeatures) -> Float[Tensor, "batch prefix width"]:
        summary: Tensor = self.mlp(features)
        if features.grid is None:
            return summary
        cells = self.dropout(self.project(self.norm(features.grid)))
        return torch.cat([cells, summary], dim=1)


def embedding_of(features: ImageFeatures, kind: Literal["unit", "raw"]) -> Float[Tensor, "batch embed"]:
    """The image embedding as MappingConfig.embedding asks for it.

    Raises:
        ConfigError: "raw" of features that do not say how long the embedding was.
    """
    if kind == "unit":
        return features.embedding
    if features.norm is None:
        raise ConfigError(
            "mapping.embedding is 'raw', and these features have no length: text_pretraining is not for it"
        )
    return features.embedding * features.norm.unsqueeze(1)


def build_mapping(config: MappingConfig, *, embed_dim: int, width: int) -> MlpMapping | GridMapping:
    """The mapping network that a configuration asks for."""
    kinds: dict[str, type[MlpMapping] | type[GridMapping]] = {"mlp": MlpMapping, "grid": GridMapping}
    return kinds[config.kind](config, embed_dim=embed_dim, width=width)

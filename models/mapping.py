"""Mapping networks: image features to the prefix that the decoder reads."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

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


class MappingBlock(nn.Module):
    """A pre-norm layer of ClipCap's mapping transformer: no causal mask, a ReLU MLP twice as wide."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        x = x + self._attend(self.norm1(x))
        return x + self.fc2(functional.relu(self.fc1(self.norm2(x))))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor) -> Tensor:
        parts = (self.to_queries(x), *self.to_keys_values(x).chunk(2, dim=-1))
        queries, keys, values = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        projected: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return projected


class TransformerMapping(nn.Module):
    """ClipCap's transformer (arXiv 2111.09734): vectors made from the embedding, then learnt constants.

    What the constants have become after the last layer is the prefix. Parameters are those of the published
    `TransformerMapper`, so that its weights fit by renaming.
    """

    def __init__(self, config: MappingConfig, *, embed_dim: int, width: int) -> None:
        super().__init__()
        if width % config.heads:
            raise ConfigError(
                f"decoder width {width} is not a multiple of the mapping's {config.heads} heads"
            )
        self.clip_length = config.clip_length
        self.embedding = config.embedding
        self.linear = nn.Linear(embed_dim, config.clip_length * width)
        self.prefix_const = nn.Parameter(torch.randn(config.prefix_length, width))
        self.layers = nn.ModuleList(
            MappingBlock(width=width, heads=config.heads) for _ in range(config.layers)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: ImageFeatures) -> Float[Tensor, "batch prefix width"]:
        image = self.linear(embedding_of(features, self.embedding)).unflatten(1, (self.clip_length, -1))
        constants = self.prefix_const.to(image).expand(len(image), -1, -1)
        x = torch.cat([image, constants], dim=1)
        for layer in self.layers:
            x = layer(x)
        return self.dropout(x[:, self.clip_length :])  # type: ignore[no-any-return]


def embedding_of(features: ImageFeatures, kind: Literal["unit", "raw"]) -> Float[Tensor, "batch embed"]:
    """The image embedding as MappingConfig.embedding asks for it.

    Raises:
        ConfigError: "raw" of features that do not say how long the embedding was.
    """
    if kind == "unit":
        return features.embedding
    if features.norm is None:
        raise ConfigError(
            "mapping.embedding is 'raw', and these features have no length: "
            "captions cannot stand in for images"
        )
    return features.embedding * features.norm.unsqueeze(1)


MappingNetwork = MlpMapping | GridMapping | TransformerMapping


def build_mapping(config: MappingConfig, *, embed_dim: int, width: int) -> MappingNetwork:
    """The mapping network that a configuration asks for."""
    kinds: dict[str, type[MappingNetwork]] = {
        "mlp": MlpMapping,
        "grid": GridMapping,
        "transformer": TransformerMapping,
    }
    return kinds[config.kind](config, embed_dim=embed_dim, width=width)

"""ClipCap's architecture in its published layout, written apart from ours as the tests' oracle."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel


class Mlp(nn.Module):
    def __init__(self, embed_dim: int, out: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(embed_dim, out // 2), nn.Tanh(), nn.Linear(out // 2, out))

    def forward(self, embedding: Tensor) -> Tensor:
        mapped: Tensor = self.model(embedding)
        return mapped


class Attention(nn.Module):
    """Softmax over the keys, computed head by head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        queries, (keys, values) = self.to_queries(x), self.to_keys_values(x).chunk(2, dim=-1)
        size = x.shape[-1] // self.heads
        seen = []
        for head in range(self.heads):
            part = slice(head * size, (head + 1) * size)
            weights = (queries[..., part] @ keys[..., part].transpose(1, 2) / size**0.5).softmax(dim=-1)
            seen.append(weights @ values[..., part])
        projected: Tensor = self.project(torch.cat(seen, dim=-1))
        return projected


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.relu(self.fc1(x)))
        return out


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads=8)
        self.norm2, self.mlp = nn.LayerNorm(width), FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Layers(nn.Module):
    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width) for _ in range(count))


class Transformer(nn.Module):
    def __init__(self, embed_dim: int, width: int, prefix_length: int, *, clip_length: int, layers: int):
        super().__init__()
        self.clip_length = clip_length
        self.transformer = Layers(width, layers)
        self.linear = nn.Linear(embed_dim, clip_length * width)
        self.prefix_const = nn.Parameter(torch.randn(prefix_length, width))

    def forward(self, embedding: Tensor) -> Tensor:
        image = self.linear(embedding).view(len(embedding), self.clip_length, -1)
        x = torch.cat([image, self.prefix_const.repeat(len(embedding), 1, 1)], dim=1)
        for layer in self.transformer.layers:
            x = layer(x)
        return x[:, self.clip_length :]


class ClipCap(nn.Module):
    """GPT-2 reads the mapped image embedding, then the caption."""

    def __init__(
        self,
        kind: Literal["mlp", "transformer"],
        gpt2: GPT2Config,
        *,
        embed_dim: int,
        prefix_length: int = 10,
        clip_length: int = 10,
        layers: int = 8,
    ) -> None:
        super().__init__()
        self.prefix_length = prefix_length
        self.gpt: Any = GPT2LMHeadModel(gpt2)
        width = gpt2.n_embd
        self.clip_project: nn.Module
        if kind == "mlp":
            self.clip_project = Mlp(embed_dim, width * prefix_length)
        else:
            self.clip_project = Transformer(
                embed_dim, width, prefix_length, clip_length=clip_length, layers=layers
            )

    def forward(self, embedding: Tensor, token_ids: Tensor) -> Tensor:
        """Logits that predict each token and the one after the last."""
        prefix = self.clip_project(embedding).view(len(embedding), self.prefix_length, -1)
        words = self.gpt.transformer.wte(token_ids)
        logits: Tensor = self.gpt(inputs_embeds=torch.cat([prefix, words], dim=1)).logits
        return logits[:, self.prefix_length - 1 :]

    def greedy(self, embedding: Tensor, *, full_stop: int, max_tokens: int) -> list[int]:
        """The caption of one image, the full stop included, as the published code stops."""
        token_ids: list[int] = []
        while len(token_ids) < max_tokens and full_stop not in token_ids:
            read = torch.tensor([token_ids], dtype=torch.long)
            token_ids.append(int(self(embedding, read)[0, -1].argmax()))
        return token_ids

    def published_state(self) -> dict[str, Tensor]:
        """The state dict with the buffers that transformers' GPT-2 had at the time."""
        state = self.state_dict()
        positions = self.gpt.config.n_positions
        for layer in range(self.gpt.config.n_layer):
            attention = f"gpt.transformer.h.{layer}.attn"
            state[f"{attention}.bias"] = torch.ones(1, 1, positions, positions, dtype=torch.uint8).tril()
            state[f"{attention}.masked_bias"] = torch.tensor(-1e4)
        return state

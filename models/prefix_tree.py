"""Texts that begin alike, as a tree: a causal transformer reads each beginning once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class PrefixTree:
    """The distinct beginnings of some texts, one node for the last token of each.

    Args:
        depths: position of a node's token in its text.
        mask: added to attention weights: 0 where a node looks at itself and those before it, else -inf.
        ends: node at which each text ends.
    """

    token_ids: Int[Tensor, "nodes"]
    depths: Int[Tensor, "nodes"]
    mask: Float[Tensor, "nodes nodes"]
    ends: Int[Tensor, "texts"]

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], device: torch.device) -> Self:
        """The tree of texts of at least one token."""
        nodes: dict[tuple[int, int], int] = {}  # parent and token; the first tokens' parent is -1
        paths: list[list[int]] = []
        ends: list[int] = []
        for text in texts:
            node, path = -1, list[int]()
            for token_id in text:
                node = nodes.setdefault((node, token_id), len(nodes))
                path.append(node)
                if node == len(paths):
                    paths.append(path.copy())
            ends.append(node)
        depths = np.array([len(path) - 1 for path in paths])
        mask = np.full((len(paths), len(paths)), -np.inf, dtype=np.float32)
        mask[np.arange(len(paths)).repeat(depths + 1), np.fromiter(chain.from_iterable(paths), dtype=int)] = (
            0.0
        )
        return cls(
            torch.tensor([token_id for _, token_id in nodes], device=device),
            torch.from_numpy(depths).to(device),
            torch.from_numpy(mask).to(device),
            torch.tensor(ends, device=device),
        )


def in_portions(texts: Sequence[tuple[int, ...]], *, max_tokens: int) -> list[list[tuple[int, ...]]]:
    """Texts in their order, in portions of so many tokens or one text."""
    portions: list[list[tuple[int, ...]]] = []
    tokens = 0
    for text in texts:
        tokens += len(text)
        if not portions or tokens > max_tokens:
            portions.append([])
            tokens = len(text)
        portions[-1].append(text)
    return portions

"""Keys and values of captions in flight, in tensors made once; nothing in them is ever moved."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from models.row_groups import RowGroups


@dataclass(frozen=True)
class KVCache:
    """Preallocated keys and values for captions in flight; one position of one caption is a cell.

    Prefixes live apart from captions, so that all beams of an image share one copy of its prefix.

    Args:
        cells: keys, then values, (layers, cells, 2 x width): first those of the prefixes, then the tokens'.
        num_images: prefixes there is room for.
        prefix_length: cells of each.
    """

    cells: Tensor
    num_images: int
    prefix_length: int
    max_tokens: int

    @property
    def prefix(self) -> Float[Tensor, "layers images prefix kv"]:
        """The prefixes' cells."""
        return torch.unflatten(
            self.cells[:, : self.num_images * self.prefix_length], 1, (-1, self.prefix_length)
        )

    @property
    def tokens(self) -> Float[Tensor, "layers rows tokens kv"]:
        """The captions' cells."""
        return torch.unflatten(
            self.cells[:, self.num_images * self.prefix_length :], 1, (-1, self.max_tokens)
        )

    def cells_of_prefixes(self, image_slots: Int[Tensor, "rows"]) -> Int[Tensor, "rows prefix"]:
        """Where the prefixes of these images are."""
        columns = torch.arange(self.prefix_length, device=image_slots.device)
        return image_slots.unsqueeze(1) * self.prefix_length + columns

    def cells_of_tokens(
        self, rows: Int[Tensor, "*any"], positions: Int[Tensor, "*any"]
    ) -> Int[Tensor, "*any"]:
        """Where tokens at these positions of these rows are."""
        return self.num_images * self.prefix_length + rows * self.max_tokens + positions


@dataclass(frozen=True)
class CacheView:
    """What one step writes and reads, the same in all layers.

    Args:
        written: cell of each row's newest token.
        groups: rows that look at the same cells.
        seen: those cells, the prefix's first.
        mask: added to their weights: 0, or -inf where a row does not look.
    """

    cache: KVCache
    written: Int[Tensor, "rows"]
    groups: RowGroups
    seen: Int[Tensor, "groups cells"]
    mask: Float[Tensor, "groups 1 members cells"]

    def attend(
        self, qkv: Float[Tensor, "rows qkv"], *, layer: int, heads: int
    ) -> Float[Tensor, "rows width"]:
        """Remembers the newest keys and values; returns the weighted values of all that are seen."""
        cells = self.cache.cells[layer]
        qkv = qkv.to(cells.dtype)
        width = qkv.shape[1] // 3
        cells.index_copy_(0, self.written, qkv[:, width:])
        seen = cells.index_select(0, self.seen.flatten()).view(*self.seen.shape, 2, heads, -1)
        keys, values = (one.transpose(1, 2) for one in seen.unbind(dim=2))
        queries = torch.unflatten(self.groups.gather(qkv[:, :width]), 2, (heads, -1)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=self.mask)
        return self.groups.scatter(mixed.transpose(1, 2).flatten(2))


def cache_dtype(weight: Tensor) -> torch.dtype:
    """On a CPU float32 even for bf16 weights: attention over few cells is 3 to 6 times as fast in it."""
    device = weight.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.float32 if device == "cpu" else weight.dtype

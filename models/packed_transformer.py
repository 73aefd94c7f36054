"""CLIP's transformers with packed products, attention included."""

from jaxtyping import Float
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional

from models.packing import Layer, pack_linears


class PackedAttention(nn.Module):
    """torch's multi-head attention of a sequence to itself, for inference: it reads its own weights by name.

    Args:
        attention: batch first, keys and values as wide as queries.
    """

    def __init__(self, attention: nn.MultiheadAttention, layer: Layer) -> None:
        super().__init__()
        self._heads = attention.num_heads
        self._qkv = layer(attention.in_proj_weight, attention.in_proj_bias)
        self._out = layer(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self,
        query: Float[Tensor, "batch length width"],
        key: Tensor,
        value: Tensor,
        *,
        need_weights: bool = False,
        attn_mask: Float[Tensor, "length length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length width"], None]:
        """What torch's gives, without weights; all three are the same sequence."""
        batch, length, width = query.shape
        parts = self._qkv(query).view(batch, length, 3, self._heads, width // self._heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=attn_mask)
        return self._out(mixed.transpose(1, 2).reshape(batch, length, width)), None


def pack_transformer(tower: nn.Module, layer: Layer) -> None:
    """Replaces every linear layer below, those of open_clip's attention too."""
    for block in tower.modules():
        if isinstance(block, ResidualAttentionBlock) and not hasattr(block, "ln_1_kv"):
            block.attn = PackedAttention(block.attn, layer)
    pack_linears(tower, layer)

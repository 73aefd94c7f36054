"""The caption decoder: GPT-2's architecture behind an image prefix, teacher-forced or with a cache."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.config import DecoderConfig
from models.continuation import Continuation, ReadPrefixes
from models.kv_cache import CacheView, KVCache, cache_dtype
from models.row_groups import RowGroups


class AddingLayer(nn.Module):
    """A linear layer that can add its result to the residual stream in the same pass."""

    def added(self, x: Tensor, hidden: Tensor) -> Tensor:
        """x + layer(hidden)."""
        raise NotImplementedError


class Attention(nn.Module):
    """Multi-head self-attention in parts: each way of decoding keeps keys and values itself."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_width = config.width // config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = config.dropout

    def project(self, x: Float[Tensor, "rows length width"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (rows, heads, length, head_width)."""
        rows, length, _ = x.shape
        parts = self.qkv(x).view(rows, length, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Weighted values, projected: (rows, length, width). `mask` is True where a query may look."""
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, dropout_p=dropout
        )
        projected: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return projected


class Block(nn.Module):
    """One pre-norm transformer layer of GPT-2."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.norm_2 = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.activation: nn.Module = nn.GELU(approximate="tanh")
        self.down = nn.Linear(4 * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.recomputes = False

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the layer's normalised input."""
        queries, keys, values = self.attention.project(self.norm_1(x))
        return queries, keys, values

    def step(self, x: Float[Tensor, "rows width"], view: CacheView, layer: int) -> Tensor:
        """The layer's output for one new token of each row; no dropout, no gradient."""
        attention = self.attention
        mixed = view.attend(attention.qkv(self.norm_1(x)), layer=layer, heads=attention.heads)
        x = _added(x, attention.out, mixed)
        return _added(x, self.down, self.activation(self.up(self.norm_2(x))))

    def finish(self, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """The layer's output, given what its queries may look at."""
        if self.recomputes and torch.is_grad_enabled():
            output: Tensor = checkpoint(self._finish, x, queries, keys, values, mask, use_reentrant=False)
            return output
        return self._finish(x, queries, keys, values, mask)

    def _finish(
        self, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Tensor:
        x = x + self.dropout(self.attention.attend(queries, keys, values, mask))
        hidden = self.activation(self.up(self.norm_2(x)))
        return x + self.dropout(self.down(hidden))  # type: ignore[no-any-return]


class CaptionDecoder(nn.Module):
    """Reads a prefix made from the image and writes the caption after it.

    There is no start token: the last prefix position predicts the first word, as in ClipCap
    (arXiv 2111.09734).
    Token embeddings and output weights are tied; the padding id has an embedding row but is never predicted.
    """

    def __init__(self, config: DecoderConfig, *, prefix_length: int) -> None:
        super().__init__()
        self.config = config
        self.prefix_length = prefix_length
        self.token_embedding = nn.Embedding(config.vocab_size + 1, config.width)
        self.position_embedding = nn.Embedding(config.max_length, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.output: nn.Module | None = (
            None  # a packed copy of output_weight, where models/packing.py made one
        )
        self._initialise()

    def _initialise(self) -> None:
        """GPT-2's: normal 0.02, the projections into the residual stream scaled down by depth."""
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(parameter, std=0.02 / (2 * self.config.layers) ** 0.5)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self,
        prefix: Float[Tensor, "images prefix width"],
        token_ids: Int[Tensor, "captions length"],
        *,
        captions_per_image: int = 1,
        wanted: Bool[Tensor, "captions length"] | None = None,
    ) -> Float[Tensor, "captions length vocab"] | Float[Tensor, "wanted vocab"]:
        """Logits that predict each given token from the prefix and the tokens before it.

        Args:
            token_ids: the targets: words, end, padding. The shift by one is done here.
            captions_per_image: rows of `token_ids` that belong to each image, next to each other. The prefix
                is computed once for all of them.
            wanted: tokens whose logits are returned, one row for each in the order of the mask; None for the
                whole rectangle. Most of a step's work is over the vocabulary, and padding needs none of it.
        """
        states = self.states(prefix, token_ids, captions_per_image=captions_per_image)
        return self._logits(states if wanted is None else states[wanted])

    def states(
        self,
        prefix: Float[Tensor, "images prefix width"],
        token_ids: Int[Tensor, "captions length"],
        *,
        captions_per_image: int = 1,
    ) -> Float[Tensor, "captions length width"]:
        """As forward, before `output_weight` makes logits of it: a loss may not need all of them at once."""
        return self.states_after(self.read(prefix).repeated(captions_per_image), token_ids)

    def states_after(
        self, read: ReadPrefixes, token_ids: Int[Tensor, "captions length"]
    ) -> Float[Tensor, "captions length width"]:
        """As states, of prefixes that were read before, a row for each caption."""
        first = read.last.unsqueeze(1)
        if token_ids.shape[1] == 1:
            return self.norm(first)  # type: ignore[no-any-return]
        following, _ = self._follow(self.token_embedding(token_ids[:, :-1]), Continuation(read.keys_values))
        return self.norm(torch.cat([first, following], dim=1))  # type: ignore[no-any-return]

    def begin(
        self, prefix: Float[Tensor, "images prefix width"], *, captions_per_image: int = 1
    ) -> tuple[Float[Tensor, "captions vocab"], Continuation]:
        """Logits of the first token, and what `advance` goes on from; one row for each caption.

        A prefix shorter than `prefix_length` takes the last positions, so that the caption's stay the same.
        """
        read = self.read(prefix).repeated(captions_per_image)
        return self._logits(self.norm(read.last)), Continuation(read.keys_values)

    def advance(
        self, embeddings: Float[Tensor, "captions width"], continuation: Continuation
    ) -> tuple[Float[Tensor, "captions vocab"], Continuation]:
        """Logits after one more token, given its embedding; gradients flow through the whole history."""
        x, longer = self._follow(embeddings.unsqueeze(1), continuation)
        return self._logits(self.norm(x.squeeze(1))), longer

    def read(self, prefix: Float[Tensor, "images prefix width"]) -> ReadPrefixes:
        """What captions of these images go on from; a row for each image."""
        length = prefix.shape[1]
        positions = self.position_embedding.weight[self.prefix_length - length : self.prefix_length]
        x = self.dropout(prefix + positions)
        mask = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        keys_values = []
        for block in self.layers:
            queries, keys, values = block.project(x)
            keys_values.append((keys, values))
            if block is self.blocks[-1]:  # of its outputs, only the last position's is read
                x, queries, mask = x[:, -1:], queries[:, :, -1:], mask[-1:]
            x = block.finish(x, queries, keys, values, mask)
        return ReadPrefixes(x[:, -1], tuple(keys_values))

    def _follow(self, embeddings: Tensor, continuation: Continuation) -> tuple[Tensor, Continuation]:
        past, length = continuation.keys_values[0][0].shape[2], embeddings.shape[1]
        first = self.prefix_length + continuation.num_tokens
        x = self.dropout(embeddings + self.position_embedding.weight[first : first + length])
        mask = torch.ones(length, past + length, dtype=torch.bool, device=x.device).tril(past)
        keys_values = []
        for block, (past_keys, past_values) in zip(self.layers, continuation.keys_values, strict=True):
            queries, keys, values = block.project(x)
            keys, values = torch.cat([past_keys, keys], dim=2), torch.cat([past_values, values], dim=2)
            keys_values.append((keys, values))
            x = block.finish(x, queries, keys, values, mask)
        return x, Continuation(tuple(keys_values), continuation.num_tokens + length)

    def new_cache(self, *, images: int, rows: int, max_tokens: int) -> KVCache:
        """An empty cache for `images` prefixes and `rows` captions of up to `max_tokens` tokens."""
        weight = self.token_embedding.weight
        cells = images * self.prefix_length + rows * max_tokens
        shape = (self.config.layers, cells, 2 * self.config.width)
        zeros = weight.new_zeros(shape, dtype=cache_dtype(weight))
        return KVCache(zeros, images, self.prefix_length, max_tokens)

    def prefill(
        self, prefix: Float[Tensor, "images prefix width"], cache: KVCache, image_slots: Int[Tensor, "images"]
    ) -> Float[Tensor, "images vocab"]:
        """Reads prefixes into their slots of the cache; returns the logits of the first token of each."""
        read = self.read(prefix.to(self.position_embedding.weight.dtype))
        cells = cache.cells_of_prefixes(image_slots).flatten()
        for layer, both in enumerate(read.keys_values):
            beside = torch.cat([one.transpose(1, 2).flatten(2) for one in both], dim=2).flatten(0, 1)
            cache.cells[layer].index_copy_(0, cells, beside.to(cache.cells.dtype))
        return self._logits(self.norm(read.last))

    def step(
        self,
        token_ids: Int[Tensor, "rows"],
        cache: KVCache,
        *,
        rows: Int[Tensor, "rows"],
        image_slots: Int[Tensor, "rows"],
        ancestors: Int[Tensor, "rows tokens"],
        lengths: Int[Tensor, "rows"],
        groups: RowGroups | None = None,
    ) -> Float[Tensor, "rows vocab"]:
        """Feeds each caption's newest token and returns the logits of the next one.

        Args:
            token_ids: the token at caption position `lengths` (0-based) of each row.
            rows: cache row that this token is written to, all different.
            image_slots: prefix slot of each row; beams of an image share one.
            ancestors: for each row and earlier position, the cache row which holds that token. Beams are
                reordered by permuting this table. Columns from `lengths` on are not read; there is at least
                one more than the longest of `lengths`.
            lengths: tokens fed before this one; rows of different length may stand side by side.
            groups: rows of one image, for speed alone; None: each for itself.
        """
        groups = groups or RowGroups.alone(len(rows), rows.device)
        columns = torch.arange(ancestors.shape[1], device=token_ids.device)
        is_past = columns < lengths.unsqueeze(1)
        past = cache.cells_of_tokens(torch.where(is_past, ancestors, rows.unsqueeze(1)), columns)
        prefixes = cache.cells_of_prefixes(image_slots[groups.members[:, 0]])
        seen = torch.cat([prefixes, past[groups.members].flatten(1)], dim=1)
        is_hidden = columns > lengths.unsqueeze(1)
        mask = groups.mask(is_hidden, prefix_length=self.prefix_length, dtype=cache.cells.dtype)
        view = CacheView(cache, cache.cells_of_tokens(rows, lengths), groups, seen, mask)
        x = self.token_embedding(token_ids) + self.position_embedding(self.prefix_length + lengths)
        for layer, block in enumerate(self.layers):
            x = block.step(x, view, layer)
        return self._logits(self.norm(x))

    def recompute_activations(self) -> None:
        """From now on each layer's inner activations are computed again for the gradient instead of kept."""
        for block in self.layers:
            block.recomputes = True

    @property
    def longest_caption(self) -> int:
        """Tokens that there are positions for after the prefix; the last one is never read."""
        return self.config.max_length - self.prefix_length + 1

    @property
    def layers(self) -> list[Block]:
        """The blocks, typed."""
        return list(self.blocks)  # type: ignore[arg-type]

    @property
    def output_weight(self) -> Float[Tensor, "vocab width"]:
        """From states to logits; the token embeddings themselves, without the padding row."""
        return self.token_embedding.weight[: self.config.vocab_size]

    def _logits(self, states: Tensor) -> Tensor:
        if self.output is not None:
            return self.output(states)  # type: ignore[no-any-return]
        return functional.linear(states, self.output_weight)


def _added(x: Tensor, layer: nn.Module, hidden: Tensor) -> Tensor:
    if isinstance(layer, AddingLayer):
        return layer.added(x, hidden)
    return x + layer(hidden)  # type: ignore[no-any-return]

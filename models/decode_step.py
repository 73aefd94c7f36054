"""One pass of the decoder over the newest token of every row: what a batch does again and again."""

from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor

from models.decoder import CaptionDecoder
from models.kv_cache import KVCache
from models.row_groups import RowGroups
from models.rows import RowTables


class DecodeStep(Protocol):
    """Logits of the next token of some rows, given by their ids and by the slots of their images.

    Args:
        span: positions looked at; at least the longest caption so far.
        groups: which rows belong to one image; for speed alone.
    """

    def __call__(
        self,
        ids: Int[Tensor, "rows"],
        slots: Int[Tensor, "rows"],
        *,
        span: int,
        groups: RowGroups | None = None,
    ) -> Float[Tensor, "rows vocab"]: ...


@dataclass(frozen=True)
class PlainStep:
    """The step as it is: what it reads and writes are the cache and the tables alone, made once."""

    decoder: CaptionDecoder
    cache: KVCache
    tables: RowTables

    def __call__(
        self,
        ids: Int[Tensor, "rows"],
        slots: Int[Tensor, "rows"],
        *,
        span: int,
        groups: RowGroups | None = None,
    ) -> Float[Tensor, "rows vocab"]:
        newest = self.tables.lengths[ids] - 1
        return self.decoder.step(
            self.tables.token_ids[ids, newest],
            self.cache,
            rows=ids,
            image_slots=slots,
            ancestors=self.tables.ancestors[ids, :span],
            lengths=newest,
            groups=groups,
        )


def plain(step: DecodeStep) -> DecodeStep:
    """Leaves a step as it is; models/cuda_graphs.py has what a GPU wants."""
    return step

"""CUDA graphs of the decode step: its hundreds of kernels are recorded once and started by one call."""

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.decode_step import DecodeStep
from models.row_groups import RowGroups

log = logging.getLogger(__name__)
SHORTEST_SPAN = 16
WARM_UP_RUNS = 3
"""Runs before a recording, in which libraries choose their kernels and allocate what they keep."""
TOLERANCE = 0.05
"""Between the logits of a recording and of the step itself, which may add up in another order, in bf16."""

_RECORDING = threading.Lock()
"""One recording at a time in the process: its start waits for the whole device, which another forbids."""


@dataclass(frozen=True)
class Recording:
    """Work that can be run again on the same tensors, and the tensor that its result is written to."""

    replay: Callable[[], None]
    logits: Tensor


Record = Callable[[Callable[[], Tensor]], Recording]


class GraphedStep:
    """A decode step recorded for a few sizes of batch; what is in between runs in the next larger one.

    The places left over repeat the last row: the same numbers are written to its cell more than once. Each
    row is read for itself, whatever the groups. The logits are valid until the next call. Where recording
    fails, the step runs as it is.

    Args:
        rows, spans: sizes that are recorded, ascending; a larger batch runs as it is.
    """

    def __init__(
        self,
        step: DecodeStep,
        *,
        rows: Sequence[int],
        spans: Sequence[int],
        device: torch.device,
        record: Record,
    ) -> None:
        self._step = step
        self._rows = rows
        self._spans = spans
        self._ids = torch.zeros(rows[-1], dtype=torch.long, device=device)
        self._slots = torch.zeros(rows[-1], dtype=torch.long, device=device)
        self._filled_with: Tensor | None = None
        self._recordings = self._record_all(record)

    @property
    def is_recorded(self) -> bool:
        return bool(self._recordings)

    def __call__(
        self,
        ids: Int[Tensor, "rows"],
        slots: Int[Tensor, "rows"],
        *,
        span: int,
        groups: RowGroups | None = None,
    ) -> Float[Tensor, "rows vocab"]:
        recording = self._recordings.get((_next_size(self._rows, len(ids)), _next_size(self._spans, span)))
        if recording is None:
            return self._step(ids, slots, span=span, groups=groups)
        self._fill(ids, slots)
        recording.replay()
        return recording.logits[: len(ids)]

    def _fill(self, ids: Tensor, slots: Tensor) -> None:
        """Puts the rows where recordings read them; a batch in which nobody joined or left is there."""
        if ids is self._filled_with:
            return
        for target, source in ((self._ids, ids), (self._slots, slots)):
            target[: len(source)].copy_(source)
            target[len(source) :].copy_(source[-1:].expand(len(target) - len(source)))
        self._filled_with = ids

    def _record_all(self, record: Record) -> dict[tuple[int, int], Recording]:
        """The largest first: the memory of a graph serves the smaller ones after it."""
        sizes = [(rows, span) for rows in reversed(self._rows) for span in reversed(self._spans)]
        try:
            return {(rows, span): _checked(record, self._run_of(rows, span)) for rows, span in sizes}
        except RuntimeError as error:
            log.warning("the decode step cannot be recorded and runs without CUDA graphs: %s", error)
            return {}

    def _run_of(self, rows: int, span: int) -> Callable[[], Tensor]:
        step, ids, slots = self._step, self._ids[:rows], self._slots[:rows]
        return lambda: step(ids, slots, span=span)


def graphed(step: DecodeStep, *, device: torch.device, max_rows: int, max_tokens: int) -> DecodeStep:
    """The step as CUDA graphs, recorded now, for batches of up to so many rows and tokens."""
    with _RECORDING, torch.cuda.device(device):
        pool, stream = torch.cuda.graph_pool_handle(), _stream()
        return GraphedStep(
            step,
            rows=doubling(1, max_rows),
            spans=doubling(SHORTEST_SPAN, max_tokens),
            device=device,
            record=lambda run: _record_cuda(run, pool, stream),
        )


def doubling(first: int, last: int) -> list[int]:
    """first, its doubles below `last`, and `last`."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]


def _stream() -> Any:
    """Where all recordings of a step are made: a pool's memory belongs to one stream.

    A new one for each would soon be another engine's: torch hands out 32 streams in turn, and what a thread
    starts on a stream that records is recorded, not run.
    """
    current = torch.cuda.current_stream()
    return torch.cuda.Stream() if current == torch.cuda.default_stream() else current  # type: ignore[no-untyped-call]


def _record_cuda(run: Callable[[], Tensor], pool: Any, stream: Any) -> Recording:
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_RUNS):
            run()
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # thread_local: another engine of this process, as before a change of model, may go on meanwhile.
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        logits = run()
    return Recording(graph.replay, logits)


def _checked(record: Record, run: Callable[[], Tensor]) -> Recording:
    """A recording that gives what it was made from; raises RuntimeError for one that does not."""
    recording = record(run)
    expected = run()
    recording.replay()
    if not torch.allclose(recording.logits.float(), expected.float(), atol=TOLERANCE, rtol=TOLERANCE):
        raise RuntimeError("the recorded step gives other logits")
    return recording


def _next_size(sizes: Sequence[int], wanted: int) -> int:
    """The size to run in; `wanted` itself, which is not recorded, where it is larger than all."""
    at = bisect_left(sizes, wanted)
    return sizes[at] if at < len(sizes) else wanted

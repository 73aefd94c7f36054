"""What activation checkpointing saves and costs: `python -m benchmarks.activation_checkpointing`.

GPT-2 small, cross-entropy of random captions under bf16 autocast where the machine is fast in it, forward and
backward. Kept: what autograd holds between the two, weights not counted. Times are CPU seconds of interleaved
runs, on a GPU wall seconds.
"""

import argparse
import copy
import statistics
import time
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from models.config import DecoderConfig
from models.decoder import CaptionDecoder
from training.autocast import autocast, is_fast_in_bf16
from training.linear_cross_entropy import linear_cross_entropy

GPT2 = DecoderConfig("gpt2", vocab_size=50257, width=768, layers=12, heads=12, max_length=1024)
PREFIX, CAPTIONS_PER_IMAGE = 10, 5


@dataclass(frozen=True)
class Cost:
    """Of one forward and backward pass: seconds, and bytes kept in between."""

    seconds: float
    kept: int


def main() -> None:
    """Compares both ways on batches of images x 5 captions of several lengths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs="+", default=[15, 40, 160])
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    plain = CaptionDecoder(GPT2, prefix_length=PREFIX).to(device)
    checkpointed = copy.deepcopy(plain)
    checkpointed.recompute_activations()
    table = Table("captions", "kept", "kept, checkpointed", "time ratio", box=None)
    for length in arguments.lengths:
        prefix = torch.randn(arguments.images, PREFIX, GPT2.width, device=device)
        shape = (arguments.images * CAPTIONS_PER_IMAGE, length)
        token_ids = torch.randint(GPT2.vocab_size, shape, device=device)
        pairs = [
            (_train_once(plain, prefix, token_ids), _train_once(checkpointed, prefix, token_ids))
            for _ in range(arguments.runs)
        ]
        before, after = pairs[-1]
        table.add_row(
            f"{shape[0]} of {length} tokens",
            f"{before.kept / 1e9:.2f} GB",
            f"{after.kept / 1e9:.2f} GB",
            f"{statistics.median(b.seconds / a.seconds for a, b in pairs):.2f}",
        )
    kind = "bf16 autocast" if is_fast_in_bf16(device) else "fp32, as bf16 is not fast here"
    Console().print(f"{device}, {kind}, {torch.get_num_threads()} threads, median of {arguments.runs}", table)


def _train_once(decoder: CaptionDecoder, prefix: Tensor, token_ids: Tensor) -> Cost:
    weights = {value.untyped_storage().data_ptr() for value in decoder.parameters()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    decoder.zero_grad(set_to_none=True)
    began = _now(prefix.device)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)
    with autocast(prefix.device, "auto"), hooks:
        states = decoder.states(prefix, token_ids, captions_per_image=CAPTIONS_PER_IMAGE)
        loss = linear_cross_entropy(states.flatten(0, 1), decoder.output_weight, token_ids.flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    seconds = _now(prefix.device) - began
    return Cost(seconds, sum(kept.values()))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


if __name__ == "__main__":
    main()

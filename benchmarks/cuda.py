"""What a GPU makes of the engine: `python -m benchmarks.cuda`; needs no service, no data and no hub.

Prints whether captions are those of the CPU, then times, as medians of interleaved runs with their ratios:
decoding against transformers' generate, with and without CUDA graphs; images a second through the whole
engine, with and without encoding beside decoding. GPT-2 small and ViT-B-32 have random weights.
"""

import argparse
import time
import traceback
from collections.abc import Callable

import torch

from benchmarks.cuda_captions import compare_captions
from benchmarks.cuda_decoding import compare_decoding, take_step_apart
from benchmarks.cuda_engine import compare_engines
from benchmarks.cuda_parts import console
from benchmarks.random_reference import random_reference

BATCHES = (1, 8, 32, 128)


def main() -> None:
    """Every part of the comparison; one that fails is reported and the others go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--images", type=int, default=2048, help="through the engine in each run")
    parser.add_argument("--device", default="cuda", help="cpu only tries the program itself")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    arguments = parser.parse_args()
    device, batches, runs = torch.device(arguments.device), arguments.batches, arguments.runs
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    console.print(f"{name}, torch {torch.__version__}, medians of {runs} interleaved runs")
    began = time.perf_counter()
    _try("captions", lambda: compare_captions(device))
    captioner, gpt2 = random_reference()
    captioner.to(device)
    gpt2.to(device)  # type: ignore[arg-type]
    _try("decoding", lambda: compare_decoding(captioner, gpt2, batches=batches, runs=runs))
    _try("a step", lambda: take_step_apart(captioner, rows=max(batches)))
    _try("engine", lambda: compare_engines(captioner, gpt2, images=arguments.images, batch=max(batches)))
    console.print(f"all of it took {time.perf_counter() - began:.0f} s")


def _try(what: str, part: Callable[[], None]) -> None:
    began = time.perf_counter()
    try:
        part()
    except Exception:  # noqa: BLE001 - a machine with a GPU is lent for minutes: the other parts still count
        console.print(f"{what} FAILED")
        traceback.print_exc()
    console.print(f"({what}: {time.perf_counter() - began:.0f} s)\n")


if __name__ == "__main__":
    main()

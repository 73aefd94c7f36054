"""What the engine's thread does differently on a GPU; on a CPU nothing of it."""

from collections.abc import Callable
from functools import partial

import torch

from models.cuda_graphs import graphed
from models.decode_step import DecodeStep, plain
from service.engine.settings import EngineSettings

DECODING_FIRST = -1
"""Priority of the stream that decodes: its small kernels go before those of the image tower."""


def use_gpu(device: torch.device) -> None:
    """Makes the calling thread work on this GPU, on a stream of its own; fp32 is never TF32 then."""
    if device.type != "cuda":
        return
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined] # matrix products are so already
    torch.cuda.set_device(device)
    torch.cuda.synchronize()  # the weights were put there on another thread's stream
    torch.cuda.set_stream(torch.cuda.Stream(device, priority=DECODING_FIRST))  # type: ignore[no-untyped-call]


def step_preparation(
    device: torch.device, settings: EngineSettings, *, max_tokens: int
) -> Callable[[DecodeStep], DecodeStep]:
    """What a decoding batch makes of its step: CUDA graphs on a GPU."""
    if device.type != "cuda":
        return plain
    return partial(graphed, device=device, max_rows=settings.max_rows, max_tokens=max_tokens)

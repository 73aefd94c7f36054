"""What the parts of benchmarks.cuda share: engines, ways to switch a gain off, times."""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from transformers import GPT2LMHeadModel

from models.captioner import Captioner
from models.cuda_graphs import graphed
from models.decode_step import DecodeStep, plain
from service.engine.encoding import Encoding, ImageEncoder
from service.engine.engine import Engine
from service.engine.settings import EngineSettings
from service.engine.work import Work

NEW_TOKENS, EOS, BEAMS = 20, 50256, 5
WAIT_S = 120.0

console = Console(width=150)


def half_gpt2(gpt2: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """transformers' model in bf16."""
    copied: Any = copy.deepcopy(gpt2)
    return copied.bfloat16()  # type: ignore[no-any-return]


def graphs_for(captioner: Captioner, *, rows: int) -> Callable[[DecodeStep], DecodeStep]:
    """What records the steps of a batch; on a CPU nothing."""
    device = captioner.device
    if device.type != "cuda":
        return plain
    return lambda step: graphed(step, device=device, max_rows=rows, max_tokens=NEW_TOKENS)


def seconds(way: Callable[[], object]) -> float:
    """Wall time until the GPU has done it."""
    _synchronize()
    began = time.perf_counter()
    way()
    _synchronize()
    return time.perf_counter() - began


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextlib.contextmanager
def running(captioner: Captioner, settings: EngineSettings) -> Iterator[Engine]:
    """An engine, stopped in the end."""
    engine = Engine(captioner, settings=settings)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop(drain_s=0)


def without_graphs() -> AbstractContextManager[object]:
    """Engines that are started here launch the kernels of a step one by one."""
    return patch("service.engine.pipeline.step_preparation", lambda *args, **kwargs: plain)


def encoding_first() -> AbstractContextManager[object]:
    """Engines that are started here decode nothing while they encode."""
    return patch("service.engine.pipeline.ImageEncoder", _WaitingEncoder)


class _WaitingEncoder(ImageEncoder):
    def start(self, works: Sequence[Work]) -> Encoding:
        encoding = super().start(works)
        if encoding.done is not None:
            encoding.done.synchronize()
        return encoding

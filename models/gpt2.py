"""Weights of transformers' GPT-2 for our decoder of the same shape."""

from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from models.config import ConfigError
from models.decoder import CaptionDecoder


@torch.no_grad()
def load_gpt2(decoder: CaptionDecoder, gpt2: GPT2LMHeadModel) -> None:
    """Copies the weights of a GPT-2 of the decoder's size; the decoder's padding row stays as it is.

    Raises:
        ConfigError: a GPT-2 of another size. Weights fit any number of heads, and mean something for one.
    """
    faults = _differences(decoder, gpt2.config)
    if faults:
        raise ConfigError(f"the GPT-2 weights do not fit: {', '.join(faults)}")
    source: Any = gpt2.transformer
    decoder.output_weight.copy_(source.wte.weight)
    decoder.position_embedding.weight.copy_(source.wpe.weight[: decoder.config.max_length])
    _copy_norm(decoder.norm, source.ln_f)
    blocks: Any = decoder.blocks
    for block, layer in zip(blocks, source.h, strict=True):
        _copy_norm(block.norm_1, layer.ln_1)
        _copy_norm(block.norm_2, layer.ln_2)
        _copy_conv1d(block.attention.qkv, layer.attn.c_attn)
        _copy_conv1d(block.attention.out, layer.attn.c_proj)
        _copy_conv1d(block.up, layer.mlp.c_fc)
        _copy_conv1d(block.down, layer.mlp.c_proj)


def _differences(decoder: CaptionDecoder, gpt2: GPT2Config) -> list[str]:
    config = decoder.config
    sizes = {
        "width": (config.width, gpt2.n_embd),
        "layers": (config.layers, gpt2.n_layer),
        "heads": (config.heads, gpt2.n_head),
        "vocab_size": (config.vocab_size, gpt2.vocab_size),
    }
    faults = [f"decoder.{name} is {ours}, theirs {its}" for name, (ours, its) in sizes.items() if ours != its]
    if config.max_length > gpt2.n_positions:
        faults.append(f"decoder.max_length is {config.max_length}, theirs at most {gpt2.n_positions}")
    return faults


def _copy_norm(target: nn.LayerNorm, source: Any) -> None:
    target.weight.copy_(source.weight)
    target.bias.copy_(source.bias)


def _copy_conv1d(target: nn.Linear, source: Any) -> None:
    """GPT-2's Conv1D keeps its weight as (in, out), a Linear as (out, in)."""
    target.weight.copy_(source.weight.t())
    target.bias.copy_(source.bias)

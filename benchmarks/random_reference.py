"""The reference configuration at random weights: ViT-B-32, ClipCap's MLP with a prefix of 10, GPT-2 small."""

from typing import Any

import torch
from open_clip.tokenizer import bytes_to_unicode
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from models.captioner import Captioner
from models.clip import ClipEncoder
from models.config import CaptionerConfig, ClipConfig, DecoderConfig, MappingConfig
from models.gpt2 import load_gpt2
from models.tokenizer import Gpt2Vocabulary

PREFIX, MAX_TOKENS, MERGES = 10, 40, 50_000


def random_reference(*, seed: int = 0, layers: int = 12) -> tuple[Captioner, GPT2LMHeadModel]:
    """A captioner, and transformers' own model with the same decoder weights; fewer layers for a trial."""
    torch.manual_seed(seed)
    clip = ClipConfig("ViT-B-32")
    decoder = DecoderConfig("gpt2", vocab_size=50257, width=768, layers=layers, heads=12, max_length=64)
    config = CaptionerConfig(clip, MappingConfig("mlp", PREFIX), decoder, MAX_TOKENS)
    captioner = Captioner.build(config, clip=ClipEncoder.load(clip), tokenizer=vocabulary()).eval()
    gpt2: Any = GPT2LMHeadModel(GPT2Config(n_layer=layers))
    gpt2.eval()
    load_gpt2(captioner.decoder, gpt2)
    return captioner.requires_grad_(False), gpt2.requires_grad_(False)


def vocabulary() -> Gpt2Vocabulary:
    """As many ids as GPT-2's 50,257: the bytes, 50,000 pairs of them, end-of-text."""
    letters = list(bytes_to_unicode().values())
    merges: Any = [(left, right) for left in letters for right in letters][:MERGES]
    tokens = [*letters, *(left + right for left, right in merges), "<|endoftext|>"]
    return Gpt2Vocabulary(GPT2Tokenizer(vocab={token: id for id, token in enumerate(tokens)}, merges=merges))

"""The real architectures at toy size and random weights, built in milliseconds for tests."""

import gzip
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import bytes_to_unicode
from transformers import GPT2Tokenizer

from models.captioner import Captioner
from models.checkpoint import save_captioner
from models.clip import ClipEncoder
from models.clip_folder import write_local_config
from models.config import CaptionerConfig, ClipConfig, DecoderConfig, MappingConfig
from models.manifest import Provenance
from models.tokenizer import CaptionTokenizer, ClipVocabulary, Gpt2Vocabulary

WORDS = ["dog", "cat", "snow", "grass", "water", "man", "red", "ball", "on", "in", "the", "runs"]


def tiny_merges() -> bytes:
    """A merges file in CLIP's format that makes each of WORDS one token."""
    merges: list[str] = []
    for word in WORDS:
        symbols = [*word[:-1], word[-1] + "</w>"]
        for end in range(1, len(symbols)):
            merge = f"{''.join(symbols[:end])} {symbols[end]}"
            if merge not in merges:
                merges.append(merge)
    return gzip.compress("\n".join(["#version: tiny", *merges]).encode(), mtime=0)


def tiny_vocab_size(merges: bytes) -> int:
    """Ids of CLIP's tokenizer with these merges: bytes, bytes at a word's end, merges, start and end."""
    return 512 + len(gzip.decompress(merges).decode().split("\n")) - 1 + 2


def tiny_clip(folder: Path, *, merges: bytes | None = None, seed: int = 0) -> ClipEncoder:
    """A local CLIP of two small vision transformer and text layers, saved in `folder`."""
    merges = merges or tiny_merges()
    write_local_config(
        folder,
        name="tiny-clip",
        model={
            "embed_dim": 16,
            "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32},
            "text_cfg": {
                "context_length": 32,
                "vocab_size": tiny_vocab_size(merges),
                "width": 32,
                "heads": 2,
                "layers": 2,
            },
        },
        preprocess={
            "size": 32,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
        merges=merges,
    )
    torch.manual_seed(seed)
    clip = ClipEncoder.create_local(folder)
    clip.save(folder, dtype=torch.float32)
    return clip.eval()


def tiny_captioner(folder: Path, *, mapping: MappingConfig | None = None, seed: int = 0) -> Captioner:
    """A captioner on the tiny CLIP's own vocabulary; its CLIP lies in `folder`/clip."""
    clip = tiny_clip(folder / "clip", seed=seed)
    config = CaptionerConfig(
        ClipConfig("local-dir:clip"),
        mapping or MappingConfig("mlp", 3),
        tiny_decoder_config(clip.vocab_size),
        12,
    )
    torch.manual_seed(seed)
    return Captioner.build(config, clip=clip, tokenizer=ClipVocabulary(clip.tokenizer)).eval()


def tiny_decoder_config(vocab_size: int, *, vocabulary: str = "clip") -> DecoderConfig:
    """Two layers of width 32."""
    shape = {"width": 32, "layers": 2, "heads": 2, "max_length": 40}
    return DecoderConfig.from_dict({"vocabulary": vocabulary, "vocab_size": vocab_size, **shape})


def tiny_checkpoint(folder: Path, *, seed: int = 0, parent: str | None = None) -> Path:
    """A whole checkpoint folder as training writes it."""
    captioner = tiny_captioner(folder / "parts", seed=seed)
    save_captioner(
        captioner,
        folder / "checkpoint",
        provenance=Provenance(name="tiny", stage="supervised", step=1, parent=parent),
        card="# tiny\n\nRandom weights, for tests.\n",
        clip_folder=folder / "parts" / "clip",
    )
    return folder / "checkpoint"


def byte_level_bpe() -> Gpt2Vocabulary:
    """A byte-level BPE of GPT-2's kind which marks word starts and keeps case, with whole words for some."""
    alphabet = sorted(bytes_alphabet())
    merges: Any = []  # pairs, which transformers takes but does not declare
    for word in ["dog", "snow", "girl", "affe", "fris", "bee", "the", "on"]:
        symbols = ["Ġ", *word]
        for end in range(1, len(symbols)):
            merge = ("".join(symbols[:end]), symbols[end])
            if merge not in merges:
                merges.append(merge)
    tokens = [*alphabet, *(left + right for left, right in merges), "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return Gpt2Vocabulary(GPT2Tokenizer(vocab=vocab, merges=merges))


def bytes_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    return list(bytes_to_unicode().values())


def tiny_gpt2_captioner(folder: Path, tokenizer: CaptionTokenizer, *, seed: int = 0) -> Captioner:
    """A captioner whose decoder writes a byte-level BPE, so that the aligned bridge is needed."""
    clip = tiny_clip(folder / "clip", seed=seed)
    config = CaptionerConfig(
        ClipConfig("local-dir:clip"),
        MappingConfig("mlp", 3),
        tiny_decoder_config(tokenizer.vocab_size, vocabulary="gpt2"),
        12,
    )
    torch.manual_seed(seed)
    return Captioner.build(config, clip=clip, tokenizer=tokenizer).eval()

"""Checkpoints at random weights, of a known architecture: for trying and timing a deployment without a hub.

Their captions are words by chance. What they cost is what a trained model of the same size costs.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode
from transformers import GPT2Tokenizer

from models.captioner import Captioner
from models.checkpoint import save_captioner
from models.clip import ClipEncoder
from models.clip_folder import LOCAL_PREFIX, write_local_config
from models.config import CaptionerConfig, ClipConfig, DecoderConfig, MappingConfig
from models.manifest import Manifest, Provenance
from models.tokenizer import Gpt2Vocabulary

PresetName = Literal["vit-b-32-gpt2", "small"]
MAX_TOKENS, PREFIX_LENGTH = 40, 10


@dataclass(frozen=True)
class Preset:
    """The sizes of a captioner: open_clip's configuration of CLIP, and those of GPT-2."""

    clip: Mapping[str, Any]
    words: int
    width: int
    layers: int
    heads: int
    max_length: int


def _clip(*, width: int, layers: int, text_width: int, embed_dim: int) -> dict[str, Any]:
    vision = {"image_size": 224, "layers": layers, "width": width, "patch_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": text_width, "layers": layers}
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": {**text, "heads": text_width // 64}}


PRESETS: Mapping[PresetName, Preset] = {
    "vit-b-32-gpt2": Preset(
        _clip(width=768, layers=12, text_width=512, embed_dim=512),
        words=50_000,
        width=768,
        layers=12,
        heads=12,
        max_length=1024,
    ),
    "small": Preset(
        _clip(width=128, layers=2, text_width=64, embed_dim=64),
        words=2_000,
        width=64,
        layers=2,
        heads=2,
        max_length=64,
    ),
}
"""vit-b-32-gpt2: the method's reference configuration, ViT-B-32, ClipCap's MLP, GPT-2 small."""


def create_random(
    folder: Path, *, name: str, preset: PresetName, seed: int, gpt2_files: Path | None = None
) -> Manifest:
    """Writes a checkpoint at random weights; the same seed makes the same.

    Args:
        gpt2_files: folder with vocab.json and merges.txt; None makes up a vocabulary of the preset's size.
    """
    sizes = PRESETS[preset]
    tokenizer = Gpt2Vocabulary.from_files(gpt2_files) if gpt2_files else made_up_vocabulary(sizes.words)
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(seed)
        clip_folder = Path(scratch)
        _write_clip_config(clip_folder, name=f"random-{preset}", clip=sizes.clip)
        clip = ClipEncoder.create_local(clip_folder)
        clip.save(clip_folder)
        config = _config(sizes, clip_folder, vocab_size=tokenizer.vocab_size)
        return save_captioner(
            Captioner.build(config, clip=clip, tokenizer=tokenizer),
            folder,
            provenance=Provenance(name, stage="random"),
            card=f"# {name}\n\nRandom weights ({preset}, seed {seed}): for trying and timing a deployment. "
            "Its captions and scores mean nothing.\n",
            clip_folder=clip_folder,
            dtype=torch.float16,
        )


def made_up_vocabulary(words: int) -> Gpt2Vocabulary:
    """A vocabulary of GPT-2's kind: 256 bytes, this many words, the end of text; it encodes byte by byte.

    The words are those that CLIP's BPE knows whole, small letters first, so that a caption has about as many
    tokens for CLIP as for the decoder: in 391 real captions 0.98 for each of GPT-2's, in syllables 2.5.
    """
    known = [token.removesuffix("</w>") for token in SimpleTokenizer().encoder if token.endswith("</w>")]
    plain = [word for word in known if word.isascii() and word.isalpha() and len(word) > 1]
    chosen = [*plain, *map(str.capitalize, plain)][:words]
    tokens = [*bytes_to_unicode().values(), *(f"Ġ{word}" for word in chosen), "<|endoftext|>"]
    return Gpt2Vocabulary(GPT2Tokenizer(vocab={token: id for id, token in enumerate(tokens)}, merges=[]))


def _config(sizes: Preset, clip_folder: Path, *, vocab_size: int) -> CaptionerConfig:
    decoder = DecoderConfig(
        "gpt2",
        vocab_size=vocab_size,
        width=sizes.width,
        layers=sizes.layers,
        heads=sizes.heads,
        max_length=sizes.max_length,
    )
    clip = ClipConfig(f"{LOCAL_PREFIX}{clip_folder}")
    return CaptionerConfig(clip, MappingConfig("mlp", PREFIX_LENGTH), decoder, MAX_TOKENS)


def _write_clip_config(folder: Path, *, name: str, clip: Mapping[str, Any]) -> None:
    size = clip["vision_cfg"]["image_size"]
    preprocess = {"size": size, "mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD}
    preprocess |= {"interpolation": "bicubic", "resize_mode": "shortest"}
    write_local_config(folder, name=name, model=dict(clip), preprocess=preprocess, merges=None)

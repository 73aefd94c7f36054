"""Public ClipCap weights (rmokady/CLIP_prefix_caption, arXiv 2111.09734) as a captioner of ours.

Their state dict has the mapping network, MLP or transformer, under `clip_project.` and GPT-2 under `gpt.`.
What it does not say is taken from the published inference code: the MLP was trained on CLIP's embedding as it
is (predict.py), the transformer on unit vectors (notebooks/transformer_inference.ipynb); no end-of-text was
trained, captions end at the first full stop, at the latest after 67 tokens.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from models.captioner import Captioner
from models.checkpoint import save_captioner
from models.clip import ClipEncoder
from models.clip_folder import LOCAL_PREFIX
from models.config import CaptionerConfig, ClipConfig, DecoderConfig, MappingConfig
from models.gpt2 import load_gpt2
from models.manifest import Manifest, Provenance
from models.tokenizer import CaptionTokenizer, Gpt2Vocabulary
from models.torch_file import read_tensors

Embedding = Literal["unit", "raw"]

GPT2_HEAD_WIDTH = 64
"""Of all published sizes of GPT-2; a state dict does not say it."""

MAX_TOKENS = 67
_OLD_BUFFERS = re.compile(r"\.attn\.(bias|masked_bias)$")


class ConversionError(ValueError):
    """Weights that are not ClipCap's, or do not fit what they are to be joined with; the message says why."""


def import_clipcap(
    file: Path,
    folder: Path,
    *,
    name: str,
    clip_config: ClipConfig,
    gpt2_files: Path | None = None,
    embedding: Embedding | None = None,
) -> Manifest:
    """Writes the checkpoint of a ClipCap weights file; nothing in the file is executed.

    Args:
        file: .pt or .safetensors.
        clip_config: the CLIP that the weights were trained on.
        gpt2_files: folder with vocab.json and merges.txt; None takes GPT-2's from the hub.
        embedding: what the mapping network was trained on; None takes that of the published weights.

    Raises:
        ConversionError: not ClipCap's layout, or weights that do not fit the CLIP or the vocabulary.
        TorchFileError, ClipError, ConfigError: as read_tensors, ClipEncoder.load and Captioner.build.
    """
    weights = read_tensors(file)
    captioner = clipcap_captioner(
        weights,
        clip_config=clip_config,
        clip=ClipEncoder.load(clip_config),
        tokenizer=_tokenizer(gpt2_files),
        embedding=embedding,
    )
    is_local = clip_config.model.startswith(LOCAL_PREFIX)
    return save_captioner(
        captioner,
        folder,
        provenance=Provenance(name, stage="clipcap"),
        card=_card(name, file, captioner),
        clip_folder=Path(clip_config.model.removeprefix(LOCAL_PREFIX)) if is_local else None,
    )


def clipcap_captioner(
    weights: Mapping[str, Tensor],
    *,
    clip_config: ClipConfig,
    clip: ClipEncoder,
    tokenizer: CaptionTokenizer,
    embedding: Embedding | None = None,
) -> Captioner:
    """A captioner with these weights; errors as import_clipcap."""
    mapping, gpt2 = _part(weights, "clip_project."), _gpt2(_part(weights, "gpt."))
    width, positions = gpt2.config.n_embd, gpt2.config.n_positions
    mapping_config = _mapping_config(mapping, width=width, embedding=embedding)
    _check_embed_dim(mapping, clip)
    (full_stop,) = tokenizer.encode(".")
    decoder_config = DecoderConfig(
        vocabulary="gpt2",
        vocab_size=gpt2.config.vocab_size,
        width=width,
        layers=gpt2.config.n_layer,
        heads=gpt2.config.n_head,
        max_length=positions,
        closing_ids=(full_stop,),
    )
    max_tokens = min(MAX_TOKENS, positions - mapping_config.total_length)
    config = CaptionerConfig(clip_config, mapping_config, decoder_config, max_tokens)
    captioner = Captioner.build(config, clip=clip, tokenizer=tokenizer)
    _load(captioner.mapping, {_our_name(name): value for name, value in mapping.items()}, "clip_project.")
    load_gpt2(captioner.decoder, gpt2)
    with torch.no_grad():  # the padding row is no word's; left random, each import would be another version
        captioner.decoder.token_embedding.weight[gpt2.config.vocab_size] = 0.0
    return captioner.eval()


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    part = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if not part:
        raise ConversionError(
            f"these are not ClipCap's weights: nothing in them is named {prefix}…; "
            f"they begin with {', '.join(list(weights)[:3])}"
        )
    return part


def _mapping_config(
    mapping: Mapping[str, Tensor], *, width: int, embedding: Embedding | None
) -> MappingConfig:
    if "model.2.weight" in mapping:
        hidden_width = len(mapping["model.0.weight"])
        length = len(mapping["model.2.weight"]) // width
        return MappingConfig("mlp", length, hidden_width=hidden_width, embedding=embedding or "raw")
    if "prefix_const" in mapping:
        return MappingConfig(
            "transformer",
            len(mapping["prefix_const"]),
            layers=_count(mapping, r"transformer\.layers\.(\d+)\.norm1\.weight"),
            clip_length=len(mapping["linear.weight"]) // width,
            embedding=embedding or "unit",
        )
    raise ConversionError(
        "clip_project is neither ClipCap's MLP (model.0, model.2) nor its transformer (prefix_const): "
        f"it has {', '.join(list(mapping)[:3])}"
    )


def _check_embed_dim(mapping: Mapping[str, Tensor], clip: ClipEncoder) -> None:
    first = "model.0.weight" if "model.0.weight" in mapping else "linear.weight"
    wanted = mapping[first].shape[1]
    if wanted != clip.embed_dim:
        raise ConversionError(
            f"the weights read CLIP embeddings of {wanted}, {clip.name} gives {clip.embed_dim}; "
            "ClipCap used ViT-B-32 (512) and RN50x4 (640)"
        )


def _our_name(name: str) -> str:
    """The mapping network's parameters as models.mapping calls them."""
    mlp = name.replace("model.", "layers.")
    return mlp.removeprefix("transformer.").replace(".attn.", ".").replace(".mlp.", ".")


def _gpt2(weights: Mapping[str, Tensor]) -> GPT2LMHeadModel:
    weights = {name: value for name, value in weights.items() if not _OLD_BUFFERS.search(name)}
    tokens, positions = (weights.get(f"transformer.{name}.weight") for name in ("wte", "wpe"))
    if tokens is None or positions is None:
        raise ConversionError("gpt. has no transformer.wte and transformer.wpe: not a GPT-2")
    head = weights.get("lm_head.weight", tokens)
    if not torch.equal(head, tokens):
        raise ConversionError("gpt.lm_head is not tied to the token embeddings, as our decoder's is")
    config = GPT2Config(
        vocab_size=len(tokens),
        n_positions=len(positions),
        n_embd=tokens.shape[1],
        n_layer=_count(weights, r"transformer\.h\.(\d+)\.ln_1\.weight"),
        n_head=max(1, tokens.shape[1] // GPT2_HEAD_WIDTH),
    )
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    _load(model, {**weights, "lm_head.weight": tokens}, "gpt.", assign=True)
    return model


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in weights)


def _load(
    module: torch.nn.Module, weights: Mapping[str, Tensor], prefix: str, *, assign: bool = False
) -> None:
    try:
        module.load_state_dict(weights, assign=assign)
    except RuntimeError as error:
        raise ConversionError(f"{prefix}… does not fit: {' '.join(str(error).split())}") from error


def _tokenizer(folder: Path | None) -> CaptionTokenizer:
    if folder is not None:
        return Gpt2Vocabulary.from_files(folder)
    try:
        return Gpt2Vocabulary(GPT2Tokenizer.from_pretrained("gpt2"))
    except OSError as error:
        raise ConversionError(
            "GPT-2's vocabulary is not on this machine and the hub cannot be reached; "
            "name a folder that holds its vocab.json and merges.txt"
        ) from error


def _card(name: str, file: Path, captioner: Captioner) -> str:
    mapping = captioner.config.mapping
    return f"""# {name}

ClipCap (arXiv 2111.09734) from the weights file `{file.name}`: converted by semicap, not trained by it.

- CLIP and scorer: {captioner.clip.name} ({captioner.clip.revision})
- mapping: {mapping.kind}, prefix of {mapping.total_length}, reads CLIP's embedding {mapping.embedding}
- decoder: GPT-2, {captioner.config.decoder.layers} layers of width {captioner.config.decoder.width}
- it was taught no end-of-text: a caption ends at its first full stop, or after max_tokens
"""

"""Checkpoints: a folder of safetensors, configuration and model card that rebuilds a captioner by itself."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.captioner import Captioner
from models.clip import ClipEncoder
from models.clip_folder import LOCAL_CONFIG, LOCAL_MERGES, LOCAL_PREFIX, LOCAL_WEIGHTS, ClipError
from models.config import CaptionerConfig, ClipConfig, ConfigError
from models.lora import merged_state_dict
from models.manifest import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    Manifest,
    Provenance,
    read_manifest,
    write_manifest,
)
from models.tokenizer import CaptionTokenizer, ClipVocabulary, Gpt2Vocabulary

CLIP_FOLDER, TOKENIZER_FOLDER = "clip", "tokenizer"


def save_captioner(
    captioner: Captioner,
    folder: Path,
    *,
    provenance: Provenance,
    card: str,
    clip_folder: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> Manifest:
    """Writes a checkpoint folder whole or not at all; an older one of that name is replaced.

    Args:
        card: the model card, Markdown.
        clip_folder: local CLIP folder that goes into the checkpoint; None for a CLIP from the hub.
        dtype: of the stored mapping and decoder; float16 halves the file.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_file(_own_weights(captioner, dtype), scratch / WEIGHTS_FILE)
        (scratch / WEIGHTS_FILE).chmod(0o644)  # safetensors leaves it to its owner alone
        config = _portable_config(captioner.config, clip_folder)
        _save_clip(scratch, clip_folder)
        if isinstance(captioner.tokenizer, Gpt2Vocabulary):
            (scratch / TOKENIZER_FOLDER).mkdir()
            captioner.tokenizer.save(scratch / TOKENIZER_FOLDER)
        digests = {
            path.relative_to(scratch).as_posix(): _sha256(path)
            for path in scratch.rglob("*")
            if path.is_file()
        }
        manifest = Manifest(provenance, _version(config, digests), digests[WEIGHTS_FILE], config)
        write_manifest(scratch, manifest)
        (scratch / CARD_FILE).write_text(card, encoding="utf-8")
        scratch.chmod(0o755)
        _replace_folder(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def load_captioner(folder: Path, *, device: torch.device | str = "cpu") -> Captioner:
    """Rebuilds the captioner that a folder holds, ready to caption.

    Raises:
        CheckpointError: no such folder, an unknown format version, a missing or damaged file, weights of
            another shape than the configuration says.
    """
    manifest = read_manifest(folder)
    weights = _read_weights(folder, manifest)
    try:
        clip = ClipEncoder.load(manifest.config.clip, beside=folder)
        captioner = Captioner.build(
            manifest.config, clip=clip, tokenizer=_tokenizer(folder, manifest.config, clip)
        )
    except ClipError as error:
        raise CheckpointError("has a CLIP that cannot be loaded", folder, cause=error) from error
    except ConfigError as error:
        raise CheckpointError(f"has a configuration that does not fit: {error}", folder) from error
    _load_weights(captioner, weights, folder)
    return captioner.to(device).eval()


def _version(config: CaptionerConfig, digests: Mapping[str, str]) -> str:
    """Of all that decides what a checkpoint writes: its configuration, weights, CLIP and tokenizer."""
    decides = json.dumps([config.to_dict(), digests], sort_keys=True)
    return hashlib.sha256(decides.encode()).hexdigest()[:12]


def _own_weights(captioner: Captioner, dtype: torch.dtype) -> dict[str, Tensor]:
    parts: dict[str, nn.Module] = {"mapping": captioner.mapping, "decoder": captioner.decoder}
    return {
        f"{part}.{name}": value.detach().to("cpu", dtype).contiguous()
        for part, module in parts.items()
        for name, value in merged_state_dict(module).items()
    }


def _portable_config(config: CaptionerConfig, clip_folder: Path | None) -> CaptionerConfig:
    if clip_folder is None:
        return config
    return CaptionerConfig(
        ClipConfig(LOCAL_PREFIX + CLIP_FOLDER), config.mapping, config.decoder, config.max_tokens
    )


def _save_clip(folder: Path, clip_folder: Path | None) -> None:
    if clip_folder is None:
        return
    (folder / CLIP_FOLDER).mkdir()
    for file in (LOCAL_CONFIG, LOCAL_MERGES, LOCAL_WEIGHTS):
        if (clip_folder / file).is_file():
            shutil.copyfile(clip_folder / file, folder / CLIP_FOLDER / file)


def _replace_folder(new: Path, folder: Path) -> None:
    retired = new.with_name(new.name + "-old")
    if folder.exists():
        folder.rename(retired)
    new.rename(folder)
    shutil.rmtree(retired, ignore_errors=True)


def _read_weights(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(f"has no {WEIGHTS_FILE}; fetch or write the checkpoint again", folder)
    if _sha256(path) != manifest.weights_sha256:
        raise CheckpointError(
            f"is damaged: its SHA-256 is not the one in {CONFIG_FILE}; fetch it again", path
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError("is not a safetensors file", path, cause=error) from error


def _load_weights(captioner: Captioner, weights: dict[str, Tensor], folder: Path) -> None:
    expected = {name: value.shape for name, value in _own_weights(captioner, torch.float32).items()}
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is not part of this architecture" for name in weights if name not in expected]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, the configuration needs {tuple(shape)}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    if problems:
        raise CheckpointError(f"does not fit {CONFIG_FILE}: {'; '.join(problems[:3])}", folder / WEIGHTS_FILE)
    for part, module in (("mapping", captioner.mapping), ("decoder", captioner.decoder)):
        module.load_state_dict(
            {
                name.removeprefix(f"{part}."): value
                for name, value in weights.items()
                if name.startswith(f"{part}.")
            }
        )


def _tokenizer(folder: Path, config: CaptionerConfig, clip: ClipEncoder) -> CaptionTokenizer:
    if config.decoder.vocabulary == "clip":
        return ClipVocabulary(clip.tokenizer)
    for file in ("vocab.json", "merges.txt"):
        if not (folder / TOKENIZER_FOLDER / file).is_file():
            raise CheckpointError(
                f"has no {TOKENIZER_FOLDER}/{file}; fetch or write the checkpoint again", folder
            )
    return Gpt2Vocabulary.from_files(folder / TOKENIZER_FOLDER)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

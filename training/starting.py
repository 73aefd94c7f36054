"""Where a captioning stage starts from and what its result says of itself."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from models.captioner import Captioner
from models.checkpoint import CLIP_FOLDER, load_captioner, save_captioner
from models.clip import ClipEncoder
from models.clip_folder import LOCAL_CONFIG, LOCAL_PREFIX
from models.config import CaptionerConfig, ClipConfig, DecoderConfig
from models.gpt2 import load_gpt2
from models.lora import add_adapters
from models.manifest import Provenance, read_manifest
from models.tokenizer import CaptionTokenizer, ClipVocabulary, Gpt2Vocabulary
from training.config import Places, SupervisedConfig, UnsupervisedConfig
from training.config_parts import CaptionerShape, DataConfig, RolloutConfig
from training.optim import freeze
from training.order import generator_at
from training.toml_reader import TrainingConfigError
from training.towers import save_towers


@dataclass(frozen=True)
class Origin:
    """A captioner ready to train.

    Args:
        name: model name that its checkpoints carry on.
        parent: version of the checkpoint it was read from.
        clip_folder: local CLIP folder that goes into its checkpoints; None for a CLIP from the hub.
    """

    captioner: Captioner
    name: str
    parent: str | None
    clip_folder: Path | None

    def write_checkpoint(
        self,
        folder: Path,
        *,
        stage: str,
        step: int,
        dtype: str,
        data: DataConfig,
        figures: Mapping[str, float],
    ) -> None:
        """Writes the captioner as it is now."""
        save_captioner(
            self.captioner,
            folder,
            provenance=Provenance(self.name, stage, step, self.parent),
            card=_card(self, stage=stage, step=step, data=data, figures=figures),
            clip_folder=self.clip_folder,
            dtype=getattr(torch, dtype),
        )


def check_clip_can_be_saved(origin: Origin) -> None:
    """Raises TrainingConfigError when a CLIP from the hub would learn: checkpoints only name it."""
    is_learning = any(parameter.requires_grad for parameter in origin.captioner.clip.parameters())
    if is_learning and origin.clip_folder is None:
        raise TrainingConfigError(
            "frozen", [f'{origin.captioner.clip.name} is from the hub and would learn; add "clip."']
        )


def write_with_clip(
    origin: Origin,
    folder: Path,
    *,
    stage: str,
    step: int,
    dtype: str,
    data: DataConfig,
    figures: Mapping[str, float],
) -> None:
    """As `Origin.write_checkpoint`, with the CLIP towers as they are now instead of where they started."""
    with tempfile.TemporaryDirectory() as scratch:
        if origin.clip_folder is not None:
            towers = save_towers(origin.captioner.clip, origin.clip_folder, Path(scratch))
            origin = replace(origin, clip_folder=towers)
        origin.write_checkpoint(folder, stage=stage, step=step, dtype=dtype, data=data, figures=figures)


def from_checkpoint(folder: Path, *, device: torch.device) -> Origin:
    """The captioner of a checkpoint of any stage."""
    manifest = read_manifest(folder)
    clip_folder = folder / CLIP_FOLDER
    return Origin(
        captioner=load_captioner(folder, device=device),
        name=manifest.name,
        parent=manifest.version,
        clip_folder=clip_folder if (clip_folder / LOCAL_CONFIG).is_file() else None,
    )


def from_shape(shape: CaptionerShape, places: Places, *, seed: int, device: torch.device) -> Origin:
    """A new captioner around a CLIP that another step made, or one that open_clip knows by name."""
    folder = places.run(shape.clip)
    is_local = bool(shape.clip) and folder.is_dir()
    clip_config = (
        ClipConfig(f"{LOCAL_PREFIX}{folder}") if is_local else ClipConfig(shape.clip, shape.clip_pretrained)
    )
    clip = ClipEncoder.load(clip_config)
    check_clip_reads(clip, shape.decoder.vocabulary, shape.max_tokens, setting="model.max_tokens")
    tokenizer = _tokenizer(shape, clip, places)
    config = CaptionerConfig(
        clip=clip_config,
        mapping=shape.mapping,
        decoder=DecoderConfig(
            vocabulary=shape.decoder.vocabulary,
            vocab_size=tokenizer.vocab_size,
            width=shape.decoder.width,
            layers=shape.decoder.layers,
            heads=shape.decoder.heads,
            max_length=shape.decoder.max_length,
            dropout=shape.decoder.dropout,
            pretrained=shape.decoder.pretrained,
        ),
        max_tokens=shape.max_tokens,
    )
    torch.manual_seed(seed)
    captioner = Captioner.build(config, clip=clip, tokenizer=tokenizer)
    if shape.decoder.pretrained is not None:
        from transformers import GPT2LMHeadModel  # seconds of import that other decoders need not wait for

        load_gpt2(captioner.decoder, GPT2LMHeadModel.from_pretrained(shape.decoder.pretrained))
    return Origin(captioner.to(device), shape.name, parent=None, clip_folder=folder if is_local else None)


def check_clip_reads(clip: ClipEncoder, vocabulary: str, max_tokens: int, *, setting: str) -> None:
    """Raises TrainingConfigError for captions in CLIP's own ids that its text tower has no room for."""
    limit = clip.context_length - 2
    if vocabulary == "clip" and max_tokens > limit:
        raise TrainingConfigError(
            setting, [f"is {max_tokens}; CLIP's text tower reads {limit} words between start and end"]
        )


def check_decoder_writes(captioner: Captioner, rollout: RolloutConfig) -> None:
    """Raises TrainingConfigError for sampled captions longer than the decoder has positions for."""
    limit = captioner.decoder.longest_caption
    if rollout.max_tokens > limit:
        raise TrainingConfigError(
            "rollout.max_tokens",
            [
                f"is {rollout.max_tokens}; after the prefix the decoder writes {limit} tokens, end-of-text "
                f"included (decoder.max_length is {captioner.config.decoder.max_length})"
            ],
        )


def choose_what_learns(captioner: Captioner, config: SupervisedConfig | UnsupervisedConfig) -> None:
    """Mapping and decoder learn but for what is frozen; with [lora], adapters do for the decoder."""
    captioner.set_trainable(("mapping", "decoder"))
    freeze(captioner, config.frozen)
    if config.lora.rank:
        add_adapters(
            captioner.decoder,
            targets=config.lora.targets,
            rank=config.lora.rank,
            alpha=config.lora.alpha,
            generator=generator_at(0, seed=config.loop.seed),
        )
    if config.activation_checkpointing:
        captioner.decoder.recompute_activations()


def _tokenizer(shape: CaptionerShape, clip: ClipEncoder, places: Places) -> CaptionTokenizer:
    if shape.decoder.vocabulary == "clip":
        return ClipVocabulary(clip.tokenizer)
    if shape.decoder.gpt2_files:
        return Gpt2Vocabulary.from_files(places.data / shape.decoder.gpt2_files)
    from transformers import GPT2Tokenizer

    return Gpt2Vocabulary(GPT2Tokenizer.from_pretrained(shape.decoder.pretrained or "gpt2"))


def _card(origin: Origin, *, stage: str, step: int, data: DataConfig, figures: Mapping[str, float]) -> str:
    captioner = origin.captioner
    sources = {
        "labelled photos": data.labelled,
        "unlabelled photos": data.unlabelled,
        "captions alone": data.text,
        "validation (never trained on)": (data.validation,) if data.validation else (),
    }
    lines = [
        f"# {origin.name}",
        "",
        f"An image captioner written by semicap's {stage} stage, step {step}.",
        "",
        f"- CLIP and scorer: {captioner.clip.name} ({captioner.clip.revision})",
        f"- mapping: {captioner.config.mapping.kind}, prefix of {captioner.config.mapping.total_length}",
        f"- decoder: {captioner.config.decoder.layers} layers of width {captioner.config.decoder.width}, "
        f"{captioner.config.decoder.vocab_size} tokens ({captioner.config.decoder.vocabulary})",
        *(f"- {kind}: {', '.join(folders)}" for kind, folders in sources.items() if folders),
    ]
    if figures:
        lines += ["", "| figure on validation photos | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in figures.items()]
    return "\n".join(lines) + "\n"

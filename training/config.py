"""The settings of every training step: one frozen dataclass a step, one documented line a field."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.manifest import SECOND_SCORER
from training.config_parts import (
    SHIPPED,
    TOO_FEW_SAMPLES,
    AugmentConfig,
    CaptionerShape,
    DataConfig,
    EvaluationConfig,
    LoopConfig,
    LoraConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    TextReplayConfig,
    TowersConfig,
)
from training.sources import RunCaptions
from training.toml_reader import part, setting

RUNS = "runs:"
"""Begins the name of a data source that another step has made."""

NO_UNLABELLED = ("unlabelled", "max_unlabelled", "disjoint")
CAPTIONS_ALONE = (
    *NO_UNLABELLED,
    "max_labelled",
    "split_seed",
    "validation",
    "max_validation",
    "views",
    "workers",
)
NO_EVALUATION = ("evaluate_every", "sample_every", "best_by", "start_may_win", "patience")
"""Settings that nothing in some stages reads, so that they are refused there instead of doing nothing."""

# fmt: off
# ruff: noqa: E501 - a field is one line with its unit and source; setting() and part() are dataclasses.field


@dataclass(frozen=True)
class TokenizerConfig:
    """A byte-pair vocabulary in CLIP's format, learnt from captions."""

    data: DataConfig = part(DataConfig, unread=CAPTIONS_ALONE)
    num_merges: int = setting(8000, "merges to learn; the vocabulary has 514 more ids (bytes, specials)", low=0, high=48894)
    min_count: int = setting(2, "a pair seen less often is not merged", low=1)

    def __post_init__(self) -> None:
        if not self.data.text and not self.data.labelled:
            raise ValueError("data.text and data.labelled name nothing to learn from")


@dataclass(frozen=True)
class TextConfig:
    """Captions alone: what tells of one photo belongs together, and one caption is written from another's embedding.

    The text tower learns as in arXiv 2104.08821, the decoder as in arXiv 2303.03032; noise on the embedding as in
    arXiv 2211.00575 prepares it for images, whose embeddings never match a caption's.
    """

    tokenizer: str = setting("", "merges file of a new CLIP, relative to the folder of runs; empty: CLIP's own vocabulary", names="result")
    frozen: tuple[str, ...] = setting((), "parameters whose name starts so are not trained (clip., decoder., …); CLIP's image tower never is")
    captioning: float = setting(1.0, "weight of the cross-entropy of captions written from another's embedding", low=0.0)
    contrastive: float = setting(1.0, "weight of finding the other caption of the same photo in the batch", low=0.0)
    temperature: float = setting(0.05, "softmax temperature of that", low=1e-3)
    noise: float = setting(0.5, "expected length of the noise on the unit embedding", low=0.0)
    label_smoothing: float = setting(0.1, "share of the target given to the rest of the vocabulary", low=0.0, high=0.9)
    data: DataConfig = part(DataConfig, unread=CAPTIONS_ALONE)
    towers: TowersConfig = part(TowersConfig)
    model: CaptionerShape = part(CaptionerShape)
    optim: OptimConfig = part(OptimConfig, lr=1e-3)
    loop: LoopConfig = part(LoopConfig, unread=NO_EVALUATION, batch_size=256, precision="auto")

    def __post_init__(self) -> None:
        if self.captioning + self.contrastive == 0:
            raise ValueError("captioning and contrastive are both 0: nothing would be learnt")


@dataclass(frozen=True)
class JointConfig:
    """CLIP and captioner learn together from the pixels of labelled photos (CoCa, arXiv 2205.01917)."""

    init: str = setting(doc="checkpoint to start from, relative to the folder of runs", names="result")
    frozen: tuple[str, ...] = setting((), "parameters whose name starts so are not trained (clip.model.visual.trunk.conv_stem, …)")
    captioning: float = setting(1.0, "weight of the captions' cross-entropy", low=0.0)
    contrastive: float = setting(0.5, "weight of InfoNCE between photos and captions (arXiv 2103.00020)", low=0.0)
    max_logit_scale: float = setting(30.0, "ceiling of its learnt inverse temperature; CLIP's is 100, which a small batch overfits", low=1.0)
    captions_per_image: int = setting(2, "captions drawn for each image of a batch; they share its prefix", low=1)
    label_smoothing: float = setting(0.1, "share of the target given to the rest of the vocabulary", low=0.0, high=0.9)
    stored_dtype: Literal["float32", "float16"] = setting("float16", "of mapping and decoder in the checkpoint; float16 halves it")
    data: DataConfig = part(DataConfig, unread=(*NO_UNLABELLED, "views"))
    augment: AugmentConfig = part(AugmentConfig)
    text: TextReplayConfig = part(TextReplayConfig)
    evaluation: EvaluationConfig = part(EvaluationConfig, unread=("second_scorer",))
    optim: OptimConfig = part(OptimConfig, lr=4e-4)
    loop: LoopConfig = part(LoopConfig, batch_size=96, precision="auto")

    def __post_init__(self) -> None:
        if self.text.weight > 0 and not self.data.text:
            raise ValueError("text.weight is above 0, and data.text names no captions")
        if self.captioning + self.contrastive == 0:
            raise ValueError("captioning and contrastive are both 0: nothing would be learnt from the photos")


@dataclass(frozen=True)
class SupervisedConfig:
    """Stage 1: next-token cross-entropy on labelled pairs (arXiv 2306.15111)."""

    init: str = setting("", "checkpoint to start from, of either stage, relative to the folder of runs; empty: [model]", names="result")
    frozen: tuple[str, ...] = setting((), "parameters whose name starts so are not trained (decoder., mapping.); CLIP never is")
    activation_checkpointing: bool = setting(False, "the decoder's layers compute their activations again for the gradient: less memory, more time (docs/reference.md)")
    captioning: float = setting(1.0, "weight of the captions' cross-entropy", low=0.0)
    cider: float = setting(0.0, "weight of self-critical CIDEr-D of sampled captions (arXiv 1612.00563): what agrees with people's captions becomes likelier", low=0.0)
    captions_per_image: int = setting(5, "captions drawn for each image of a batch; they share its prefix", low=1)
    label_smoothing: float = setting(0.1, "share of the target given to the rest of the vocabulary", low=0.0, high=0.9)
    stored_dtype: Literal["float32", "float16"] = setting("float16", "of mapping and decoder in the checkpoint; float16 halves it")
    data: DataConfig = part(DataConfig, unread=(*NO_UNLABELLED, "text"))
    model: CaptionerShape = part(CaptionerShape)
    lora: LoraConfig = part(LoraConfig)
    rollout: RolloutConfig = part(RolloutConfig, unread=("estimator", "gumbel_tau", "final_gumbel_tau"))
    evaluation: EvaluationConfig = part(EvaluationConfig)
    optim: OptimConfig = part(OptimConfig)
    loop: LoopConfig = part(LoopConfig)

    def __post_init__(self) -> None:
        if self.captioning + self.cider == 0:
            raise ValueError("captioning and cider are both 0: nothing would be learnt")
        if self.cider > 0 and self.rollout.has_too_few_samples:
            raise ValueError(f"rollout.samples {TOO_FEW_SAMPLES} (cider is {self.cider})")


@dataclass(frozen=True)
class UnsupervisedConfig:
    """Stage 2: unlabelled images, similarity of generated captions as reward (arXiv 2306.15111)."""

    init: str = setting(doc="checkpoint to start from, of either stage, relative to the folder of runs", names="result")
    frozen: tuple[str, ...] = setting((), "parameters whose name starts so are not trained (decoder., mapping.); CLIP never is")
    activation_checkpointing: bool = setting(False, "the decoder's layers compute their activations again for the gradient: less memory, more time (docs/reference.md)")
    replay_images: int = setting(16, "labelled images in each step's replay", low=1)
    captions_per_image: int = setting(5, "captions drawn for each replayed image", low=1)
    label_smoothing: float = setting(0.0, "of the replay", low=0.0, high=0.9)
    stored_dtype: Literal["float32", "float16"] = setting("float16", "of mapping and decoder in the checkpoint; float16 halves it")
    data: DataConfig = part(DataConfig, unread=("text",))
    reward: RewardConfig = part(RewardConfig)
    rollout: RolloutConfig = part(RolloutConfig)
    lora: LoraConfig = part(LoraConfig)
    evaluation: EvaluationConfig = part(EvaluationConfig)
    optim: OptimConfig = part(OptimConfig, lr=3e-5)
    loop: LoopConfig = part(LoopConfig, batch_size=32)

    def __post_init__(self) -> None:
        if self.reward.replay_cider > 0 and self.rollout.has_too_few_samples:
            raise ValueError(f"rollout.samples {TOO_FEW_SAMPLES} (reward.replay_cider is {self.reward.replay_cider})")


@dataclass(frozen=True)
class PseudoConfig:
    """Pseudo-captions: unlabelled photos get captions of other photos that name what is surely in them (docs/data.md)."""

    clip: str = setting(doc="CLIP folder that picks among the captions, relative to the folder of runs (3-joint/model/clip)", names="result")
    classifier: str = setting("towers/squeezenet1_1.imagenet.safetensors", "torchvision's SqueezeNet 1.1 with its ImageNet classifier, relative to the data root", names="file")
    caption_sources: tuple[str, ...] = setting((), "`source` of the lines of data.text that are used (coco-30k); empty: all. Best are captions of photos like these")
    prior: float = setting(0.75, "how far things become as likely as captions name them, where the classifier takes all classes for alike: 0 not, 1 wholly", low=0.0, high=1.0)
    min_confidence: float = setting(0.5, "a photo in which the classifier is less sure of every thing gets no captions", low=0.01, high=1.0)
    min_captions: int = setting(20, "a thing that fewer captions name is not looked for", low=1)
    pool_size: int = setting(50, "captions that CLIP finds nearest, of which those that resemble the others most are taken", low=1)
    captions_per_image: int = setting(5, "captions for each photo, at most", low=1, high=5)
    max_words: int = setting(14, "captions with more words are not used: they tell more of their own photo", low=3)
    device: str = setting("auto", "auto: a GPU if there is one, else the CPU; or torch's name of it")
    data: DataConfig = part(DataConfig, unread=("labelled", "max_labelled", "disjoint", "validation", "max_validation", "views"))


@dataclass(frozen=True)
class AverageConfig:
    """The mean of the weights of checkpoints that began as one (arXiv 2203.05482)."""

    checkpoints: tuple[str, ...] = setting(doc="checkpoints to average, relative to the folder of runs; one that is named twice counts twice", names="result")
    stored_dtype: Literal["float32", "float16"] = setting("float16", "of mapping and decoder in the checkpoint; float16 halves it")

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise ValueError("checkpoints names nothing to average")


@dataclass(frozen=True)
class ReleaseConfig:
    """The model card: what the stages measure on the same photos."""

    checkpoints: tuple[str, ...] = setting(doc="checkpoints to measure, relative to the folder of runs; the last one is released", names="result")
    validation: str = setting(doc="labelled folder, never trained on, relative to the data root")
    num_beams: int = setting(4, "1: greedy", low=1, high=16)
    second_scorer: str = setting(SHIPPED, "CLIP folder of an independent scorer, relative to the folder of runs; shipped: ours", names="result")
    about: str = setting("", "Markdown that the card begins with")

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise ValueError("checkpoints names nothing to release")

# fmt: on


TrainedConfig = TextConfig | JointConfig | SupervisedConfig | UnsupervisedConfig
StageConfig = TokenizerConfig | TrainedConfig | PseudoConfig | AverageConfig | ReleaseConfig


@dataclass(frozen=True)
class Places:
    """The three folders that a step's relative paths are looked up in.

    Args:
        data: root of photos, captions and pretrained towers (--data).
        out: this run's own folder (--out); its parent is the folder of runs, where other steps' results are.
        runs: the folder of runs where it is another than that.
        cache: decoded pixels and CLIP features, shared by the runs.
    """

    data: Path
    out: Path
    runs: Path | None = None

    @property
    def cache(self) -> Path:
        return self.out.parent / "cache"

    def run(self, relative: str) -> Path:
        """A result of another step; `../other/model` is found though the folder of runs is still to be made."""
        path = (self.runs or self.out.parent) / relative
        return path if path.exists() else Path(os.path.normpath(path))

    def second_scorer(self, name: str) -> Path:
        """The CLIP folder that a setting names."""
        return SECOND_SCORER if name == SHIPPED else self.run(name)

    def sources(self, names: Sequence[str]) -> list[Path | RunCaptions]:
        """What data settings name: paths in the data root; `runs:STEP`, the captions that a step has written."""
        return [
            RunCaptions(self.run(name.removeprefix(RUNS)), self.data)
            if name.startswith(RUNS)
            else self.data / name
            for name in names
        ]

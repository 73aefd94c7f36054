"""The tables that several training steps share: one documented line a field."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from models.config import MappingConfig
from training.toml_reader import part, setting

SHIPPED = "shipped"
"""What a setting calls the second scorer that comes along."""

TOO_FEW_SAMPLES = (
    "must be at least 2: REINFORCE with baseline 'mean' compares an image's samples with each other"
)

# fmt: off
# ruff: noqa: E501 - a field is one line with its unit and source; setting() and part() are dataclasses.field


@dataclass(frozen=True)
class DataConfig:
    """Where images and captions are; every path is relative to the data root given with --data."""

    labelled: tuple[str, ...] = setting((), "folders with metadata.jsonl, COCO or Karpathy files (file.json#train) shards (name-{000..009}.tar) or runs:STEP, whose captions are used; docs/data.md")
    unlabelled: tuple[str, ...] = setting((), "image folders, caption files or shards used without their captions")
    text: tuple[str, ...] = setting((), "jsonl files of captions without images (`text` in each line)")
    validation: str = setting("", "labelled folder (or photos alone) for evaluation, never trained on; empty: no evaluation")
    max_labelled: int = setting(0, "labelled images used, chosen at random by split_seed; 0: all", low=0)
    max_unlabelled: int = setting(0, "unlabelled images used, chosen at random by split_seed; 0: all", low=0)
    disjoint: bool = setting(False, "leave the labelled images that are used out of the unlabelled ones")
    max_validation: int = setting(0, "validation images used, the first ones; 0: all", low=0)
    split_seed: int = setting(0, "chooses the images of max_labelled and max_unlabelled", low=0)
    views: tuple[str, ...] = setting(("original", "flip"), "versions of each training image whose features are stored: original, flip, jpeg, zoom, zoom-flip")
    workers: int = setting(2, "threads that decode images", low=1, high=256)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule; defaults as in GPT-2 style fine-tuning unless said otherwise."""

    lr: float = setting(3e-4, "peak learning rate", low=0.0, high=1.0)
    lr_multipliers: Mapping[str, float] = setting({}, "factor on lr for parameters whose name starts so; 0 freezes them")
    weight_decay: float = setting(0.05, "decoupled decay of matrices (not of norms, biases, embeddings)", low=0.0, high=1.0)
    beta1: float = setting(0.9, "AdamW's first moment (arXiv 1711.05101)", low=0.0, high=1.0)
    beta2: float = setting(0.98, "AdamW's second moment; 0.98 as in CLIP (arXiv 2103.00020)", low=0.0, high=1.0)
    eps: float = setting(1e-6, "AdamW's denominator floor; 1e-6 as in CLIP", low=0.0, high=1.0)
    warmup_steps: int = setting(100, "steps of linear warm-up", low=0)
    final_lr: float = setting(0.05, "share of lr left at the end of the cosine", low=0.0, high=1.0)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm; 0: never", low=0.0)


Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class LoopConfig:
    """How long, how exact, and how often the loop looks up."""

    epochs: float = setting(10.0, "passes over the training images, counted in whole batches: the rest of a pass waits for later ones (--dry-run shows steps and passes)", low=0.0)
    max_steps: int = setting(0, "stop after this many steps even so (the schedule follows); 0: no limit", low=0)
    max_minutes: float = setting(0.0, "stop after this many minutes of training, over all starts (the schedule does not follow); 0: no limit", low=0.0)
    batch_size: int = setting(64, "images in one forward pass", low=1)
    accumulate: int = setting(1, "forward passes summed into one step", low=1)
    seed: int = setting(0, "data order, dropout, sampling", low=0)
    device: str = setting("auto", "auto: a GPU if there is one (one for each torchrun process), else the CPU; or torch's name of it")
    precision: Precision = setting("fp32", "bf16: autocast of matrix products, 1.5 to 4 x faster where the CPU has AVX512-BF16, some 60 x slower where not; auto: bf16 where that is faster here")
    evaluate_every: int = setting(0, "steps between evaluations; 0: only at the end", low=0)
    sample_every: int = setting(0, "steps between printed example captions; 0: with each evaluation", low=0)
    save_every: int = setting(500, "steps between saved states", low=1)
    save_every_minutes: float = setting(10.0, "a state is saved at least this often", low=0.0)
    best_by: str = setting("", "evaluation figure whose highest value marks the best state; empty: the last state is the result")
    start_may_win: bool = setting(True, "best_by also looks at the start, so that the result may be no different from it")
    average_decay: float = setting(0.0, "decay per step of a running average of weights, evaluated and saved in their place; 0: off", low=0.0, high=0.99999)
    patience: int = setting(0, "stop after this many evaluations without a better best_by; 0: never", low=0)

    def __post_init__(self) -> None:
        if self.patience > 0 and not self.best_by:
            raise ValueError(f"patience is {self.patience}, which does nothing without loop.best_by")


@dataclass(frozen=True)
class TowersConfig:
    """Architecture of a small CLIP in open_clip's terms."""

    name: str = setting("semicap-clip", "what reports call this scorer")
    embed_dim: int = setting(256, "width of the shared embedding", low=8)
    image_tower: str = setting("mobilenetv2_100", "timm model name")
    image_weights: str = setting("", "safetensors of ImageNet weights, relative to the data root; empty: random", names="file")
    image_size: int = setting(224, "edge of the input square in pixels", low=32)
    image_projection: Literal["linear", "mlp"] = setting("linear", "from pooled features to the embedding")
    resize_mode: Literal["squash", "shortest"] = setting("squash", "how photos become square; squash as the Flickr8k photos were")
    mean: tuple[float, ...] = setting((0.485, 0.456, 0.406), "pixel mean of the image weights (ImageNet's)")
    std: tuple[float, ...] = setting((0.229, 0.224, 0.225), "pixel standard deviation of the image weights (ImageNet's)")
    context_length: int = setting(48, "longest caption in tokens with start and end", low=8)
    text_width: int = setting(256, "width of the text tower", low=32)
    text_heads: int = setting(4, "attention heads of the text tower", low=1)
    text_layers: int = setting(4, "blocks of the text tower", low=1)


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes to training pixels, made in batch."""

    min_crop_area: float = setting(0.6, "smallest share of the picture that a random crop keeps", low=0.05, high=1.0)
    max_aspect: float = setting(1.2, "largest stretch of a crop's aspect ratio", low=1.0, high=4.0)
    flip: float = setting(0.5, "probability of a horizontal mirror", low=0.0, high=1.0)
    colour: float = setting(0.2, "largest relative change of brightness, contrast and saturation", low=0.0, high=1.0)
    jpeg_probability: float = setting(0.3, "share of pictures compressed again at a random JPEG quality", low=0.0, high=1.0)
    jpeg_min_quality: int = setting(30, "lowest such quality; features move with it (cosine 0.956 measured)", low=1, high=95)


@dataclass(frozen=True)
class DecoderShape:
    """The decoder of a new captioner; its vocabulary size comes from its tokenizer."""

    vocabulary: Literal["clip", "gpt2"] = setting("clip", "clip: the ids that the text tower reads; gpt2: GPT-2's byte-level BPE")
    gpt2_files: str = setting("", "folder with vocab.json and merges.txt, relative to the data root; empty: those of `pretrained`, from the hub", names="file")
    pretrained: str | None = setting(None, "transformers' name of GPT-2 weights to start from")
    width: int = setting(384, "as in GPT-2 (768 for its small size)", low=8)
    layers: int = setting(6, "as in GPT-2 (12)", low=1)
    heads: int = setting(6, "as in GPT-2 (12)", low=1)
    max_length: int = setting(128, "positions for prefix and caption together", low=8)
    dropout: float = setting(0.1, "share dropped in training", low=0.0, high=0.9)


@dataclass(frozen=True)
class CaptionerShape:
    """A new captioner; ignored when `init` names a checkpoint."""

    name: str = setting("semicap", "model name in answers and reports")
    clip: str = setting("", "CLIP folder relative to the folder of runs, or an open_clip name (ViT-B-32, hf-hub:owner/name); stage text takes its [towers] when empty", names="result")
    clip_pretrained: str | None = setting(None, "open_clip's weights tag for an open_clip name")
    max_tokens: int = setting(40, "longest caption in tokens, without end-of-text", low=1)
    mapping: MappingConfig = part(MappingConfig)
    decoder: DecoderShape = part(DecoderShape)


@dataclass(frozen=True)
class EvaluationConfig:
    """How validation captions are written while training."""

    num_beams: int = setting(1, "1: greedy, the cheapest; the final report may use more", low=1, high=16)
    batch_size: int = setting(64, "images decoded together", low=1)
    second_scorer: str = setting(SHIPPED, "CLIP folder of an independent scorer, relative to the folder of runs; shipped: ours", names="result")
    max_images: int = setting(200, "validation images in each evaluation; 0: all", low=0)


@dataclass(frozen=True)
class TextReplayConfig:
    """Captions alone in every step beside the photos, as in stage text: the decoder forgets less of its English."""

    weight: float = setting(0.0, "of both losses on data.text; 0: none", low=0.0)
    groups: int = setting(128, "photos whose captions are drawn in each step, by all processes together", low=2)
    captioning: float = setting(1.0, "weight of the cross-entropy of captions written from another's embedding", low=0.0)
    contrastive: float = setting(1.0, "weight of finding the other caption of the same photo", low=0.0)
    temperature: float = setting(0.05, "softmax temperature of that", low=1e-3)
    noise: float = setting(0.5, "expected length of the noise on the unit embedding", low=0.0)

    def __post_init__(self) -> None:
        if self.weight > 0 and self.captioning + self.contrastive == 0:
            raise ValueError("weight is above 0, and captioning and contrastive are both 0")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters learn in the place of the decoder's weights (arXiv 2106.09685); checkpoints get plain weights."""

    rank: int = setting(0, "rank of the learnt difference to each weight; 0: no adapters", low=0)
    alpha: float = setting(16.0, "the difference is scaled by alpha / rank", low=0.0)
    targets: tuple[str, ...] = setting(("qkv", "out"), "layers that get one: qkv and out (attention), up and down (MLP)")

    def __post_init__(self) -> None:
        unknown = sorted(set(self.targets) - {"qkv", "out", "up", "down"})
        if unknown:
            raise ValueError(f"targets has {', '.join(unknown)}; it may have qkv, out, up, down")


@dataclass(frozen=True)
class RewardConfig:
    """What stage 2 pulls towards, and what holds it back; the defaults measured best (docs/experiment.md)."""

    similarity: float = setting(1.0, "weight of minus the cosine to the image (arXiv 2306.15111)", low=0.0)
    contrastive: float = setting(0.1, "weight of the log-probability of picking the image out of the batch's images", low=0.0)
    contrastive_temperature: float = setting(0.05, "softmax temperature of the contrastive reward", low=1e-3)
    kl: float = setting(0.1, "weight of the divergence from the frozen stage-1 decoder, per token", low=0.0)
    length: float = setting(0.1, "weight of the squared relative excess over target_length", low=0.0)
    target_length: float = setting(13.0, "tokens, end-of-text included, up to which a caption costs nothing", low=1.0)
    repetition: float = setting(0.5, "weight of the expected number of word pairs that a caption repeats", low=0.0)
    replay: float = setting(0.4, "weight of cross-entropy on labelled pairs in every step; needs data.labelled", low=0.0)
    replay_cider: float = setting(0.0, "weight of self-critical CIDEr-D (arXiv 1612.00563) on the replayed images; needs data.labelled", low=0.0)


@dataclass(frozen=True)
class RolloutConfig:
    """How captions are sampled and how the gradient of their reward is estimated (docs/stage2.md)."""

    estimator: Literal["gumbel-parallel", "gumbel-recurrent", "reinforce"] = setting("gumbel-parallel", "gumbel-parallel: sample, then one teacher-forced pass; gumbel-recurrent: the gradient also flows from token to token; reinforce: samples that beat a baseline become likelier")
    samples: int = setting(4, "captions for each image", low=1)
    max_tokens: int = setting(20, "longest sampled caption in tokens, end-of-text included", low=2)
    temperature: float = setting(1.0, "divides the logits that captions are sampled from; below 1 they are more like greedy ones", low=0.05, high=10.0)
    gumbel_tau: float = setting(1.0, "relaxation temperature at the start (gumbel-*); it shapes the gradient, never the samples", low=1e-2)
    final_gumbel_tau: float = setting(0.5, "relaxation temperature at the end, reached linearly", low=1e-2)
    baseline: Literal["mean", "greedy"] = setting("mean", "what a sample must beat (reinforce): the mean of the image's other samples, or its greedy caption (arXiv 1612.00563)")
    advantages: Literal["normalised", "raw"] = setting("normalised", "normalised: divided by their standard deviation over the batch, each reward by its own (reinforce)")

    def __post_init__(self) -> None:
        if self.estimator == "reinforce" and self.has_too_few_samples:
            raise ValueError(f"samples {TOO_FEW_SAMPLES}")

    @property
    def has_too_few_samples(self) -> bool:
        """For REINFORCE, which CIDEr-D always takes."""
        return self.baseline == "mean" and self.samples < 2

# fmt: on

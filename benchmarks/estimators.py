"""How good and how dear each gradient estimator of stage 2 is: `python -m benchmarks.estimators PHOTOS`.

Gradients are compared with exact ones, over captions of few words (benchmarks/exact_gradient.py). Times are
medians of interleaved steps in CPU time, as ratios: absolute ones are this machine's, now.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.exact_gradient import FewWords, exact_losses, gradient
from models.captioner import Captioner
from models.checkpoint import load_captioner
from models.manifest import DEFAULT_CHECKPOINT
from tests.tiny import tiny_captioner
from tests.training.sharp import WORDS, prefix_of_two, rewards_of_two, sharpen
from training.autocast import autocast, is_fast_in_bf16
from training.estimators import Estimator, GumbelParallel, GumbelRecurrent, Reinforce
from training.rewards import ClipRewards
from training.sampling import Sampler

SAMPLES = 4
TINY_SEEDS = range(5)
PHOTO_WORDS = ["a", "dog", "man", "runs", "grass", "."]
TIMED_PHOTOS = 32
ENUMERATED_PHOTOS = 2

ESTIMATORS: Mapping[str, Callable[[Sampler], Estimator]] = {
    "gumbel-parallel, tau 1": lambda sampler: GumbelParallel(sampler, SAMPLES, 1.0),
    "gumbel-parallel, tau 0.5": lambda sampler: GumbelParallel(sampler, SAMPLES, 0.5),
    "gumbel-recurrent, tau 1": lambda sampler: GumbelRecurrent(sampler, SAMPLES, 1.0),
    "gumbel-recurrent, tau 0.5": lambda sampler: GumbelRecurrent(sampler, SAMPLES, 0.5),
    "reinforce, mean": lambda sampler: Reinforce(sampler, SAMPLES, "mean", "raw"),
    "reinforce, greedy": lambda sampler: Reinforce(sampler, SAMPLES, "greedy", "raw"),
}

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Scene:
    """A captioner, what it reads of some images, and what their captions are worth."""

    captioner: Captioner
    prefix: Tensor
    rewards: ClipRewards

    @property
    def weights(self) -> list[nn.Parameter]:
        return list(self.captioner.decoder.parameters())

    def head(self, count: int) -> "Scene":
        """The first images."""
        rewards = replace(self.rewards, images=self.rewards.images[:count])
        return Scene(self.captioner, self.prefix[:count], rewards)


@dataclass(frozen=True)
class ExactGradients:
    """What estimates of a scene are compared with, captions being made of few words."""

    scene: Scene
    sampler: Sampler
    by_reward: Mapping[str, Tensor]

    @classmethod
    def of(cls, scene: Scene, words: Sequence[str], *, max_tokens: int) -> "ExactGradients":
        """Enumerates captions of up to `max_tokens` tokens."""
        tokenizer = scene.captioner.tokenizer
        few = FewWords.of(tokenizer, words)
        sampler = Sampler(few, tokenizer.pad_id, max_tokens)
        losses = exact_losses(scene.captioner.decoder, scene.prefix, scene.rewards, sampler, few)
        by_reward = {reward: gradient(loss, scene.weights) for reward, loss in losses.items()}
        return cls(scene, sampler, by_reward)


@dataclass(frozen=True)
class Quality:
    """An estimator's gradients against the exact one.

    Args:
        cosine, norm: of its mean over many steps, the noise left in that mean taken out; norm relative to
            the exact gradient's.
        noise: standard deviation of one step's gradient, relative to the exact gradient's norm.
        step_cosine: mean cosine of one step's gradient.
    """

    cosine: float
    norm: float
    noise: float
    step_cosine: float

    @classmethod
    def of(cls, gradients: "GradientSums", exact: Tensor) -> "Quality":
        """From the sums over all steps."""
        mean, size = gradients.total / gradients.steps, float(exact.norm())
        variance = (gradients.squares / gradients.steps - float(mean.square().sum())) * (
            gradients.steps / (gradients.steps - 1)
        )
        norm = max(float(mean.square().sum()) - variance / gradients.steps, 1e-12) ** 0.5
        return cls(
            cosine=min(float(mean @ exact) / size / norm, 1.0),  # what is taken out is an estimate too
            norm=norm / size,
            noise=variance**0.5 / size,
            step_cosine=gradients.cosines / gradients.steps,
        )


class GradientSums:
    """What is kept of many gradients of millions of weights."""

    def __init__(self, exact: Tensor) -> None:
        self._exact = exact
        self.total = torch.zeros_like(exact)
        self.squares, self.cosines, self.steps = 0.0, 0.0, 0

    def add(self, one: Tensor) -> None:
        self.total += one
        self.squares += float(one.square().sum())
        self.cosines += float(torch.cosine_similarity(one, self._exact, dim=0))
        self.steps += 1


def main() -> None:
    """Prints both comparisons for tiny models and for a checkpoint on photos."""
    arguments = _arguments()
    tiny = [_tiny_scene(seed) for seed in TINY_SEEDS]
    photos = _photo_scene(arguments.checkpoint, arguments.photos)
    console = Console(width=110)
    for title, scenes, words in (
        (f"{len(tiny)} tiny models at random weights, mean over them", tiny, WORDS),
        (
            f"{arguments.checkpoint.name}, {ENUMERATED_PHOTOS} photos",
            [photos.head(ENUMERATED_PHOTOS)],
            PHOTO_WORDS,
        ),
    ):
        truths = [ExactGradients.of(scene, words, max_tokens=arguments.max_tokens) for scene in scenes]
        table = Table("estimator", "reward", "cosine", "norm", "noise", "cosine of one step", box=None)
        for name, make in ESTIMATORS.items():
            _add_quality(table, name, [_qualities(make, truth, arguments) for truth in truths])
        console.print(
            f"\n{title}; {arguments.draws} steps of {SAMPLES} samples, seed {arguments.seed}", table
        )
    for title, scene in (("tiny", tiny[0]), (f"{len(photos.prefix)} photos", photos)):
        kind = "under bf16 autocast" if is_fast_in_bf16(CPU) else "in fp32, as bf16 is not fast here"
        title = f"\none step {kind}, {title}, {torch.get_num_threads()} threads"
        console.print(title, _times(scene, runs=arguments.runs))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of .jpg files")
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--draws", type=int, default=60, help="steps that each estimator's mean is taken of")
    parser.add_argument("--max-tokens", type=int, default=3, help="longest caption that is enumerated")
    parser.add_argument("--runs", type=int, default=3, help="timed steps of each estimator")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _tiny_scene(seed: int) -> Scene:
    with tempfile.TemporaryDirectory() as folder:
        captioner = tiny_captioner(Path(folder), seed=seed)
    sharpen(captioner.decoder, captioner.tokenizer.eos_id, words=8.0, end=2.0)
    return Scene(captioner, prefix_of_two(), rewards_of_two(captioner))


def _photo_scene(checkpoint: Path, folder: Path) -> Scene:
    paths = sorted(folder.glob("*.jpg"))[:TIMED_PHOTOS]
    if not paths:
        raise SystemExit(f"{folder} has no .jpg file")
    captioner = load_captioner(checkpoint)
    captioner.set_trainable(["decoder"])
    with torch.no_grad():
        pixels = torch.stack([captioner.clip.preprocess(Image.open(path)) for path in paths])
        features = captioner.encode_image(pixels)
        prefix = captioner.prefix(features)
    return Scene(
        captioner, prefix, ClipRewards(captioner, features.embedding, ("similarity", "contrastive"), 0.05)
    )


def _qualities(
    make: Callable[[Sampler], Estimator], truth: ExactGradients, arguments: argparse.Namespace
) -> dict[str, Quality]:
    scene = truth.scene
    sums = {reward: GradientSums(vector) for reward, vector in truth.by_reward.items()}
    for draw in range(arguments.draws):
        generator = torch.Generator().manual_seed(arguments.seed * 1_000_003 + draw)
        estimate = make(truth.sampler)(scene.captioner.decoder, scene.prefix, scene.rewards, generator)
        for reward, loss in estimate.losses.items():
            sums[reward].add(gradient(loss, scene.weights))
    return {reward: Quality.of(sums[reward], exact) for reward, exact in truth.by_reward.items()}


def _add_quality(table: Table, name: str, by_scene: list[dict[str, Quality]]) -> None:
    for reward in by_scene[0]:
        columns = zip(*(vars(qualities[reward]).values() for qualities in by_scene), strict=True)
        table.add_row(name, reward, *(f"{statistics.mean(column):.2f}" for column in columns))


def _times(scene: Scene, *, runs: int) -> Table:
    """Sampling, forward and backward of one step by each estimator, the first as the unit."""
    sampler = Sampler(scene.captioner.tokenizer, scene.captioner.tokenizer.pad_id, 20)
    seconds: dict[str, list[float]] = {name: [] for name in ESTIMATORS if "tau 0.5" not in name}
    for run in range(runs + 1):
        for name, times in seconds.items():
            began = time.process_time()
            _step(ESTIMATORS[name](sampler), scene, seed=run)
            times.append(time.process_time() - began)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    unit = next(iter(medians.values()))
    table = Table("estimator", "CPU seconds", "ratio", box=None)
    for name, median in medians.items():
        table.add_row(name, f"{median:.3f}", f"{median / unit:.2f}")
    return table


def _step(estimator: Estimator, scene: Scene, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with autocast(CPU, "auto"):
        estimate = estimator(scene.captioner.decoder, scene.prefix, scene.rewards, generator)
    torch.stack(list(estimate.losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    scene.captioner.zero_grad()


if __name__ == "__main__":
    main()

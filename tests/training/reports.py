"""Reports as an evaluation gives them, made without a model."""

from collections.abc import Sequence

import numpy as np

from training.report import EvaluatedImage, Report

PER_IMAGE = ("cider_d", "rouge_l", "clip_similarity", "clip_score", "r@1", "length_mean", "repetition")


def made_report(
    captions: Sequence[str],
    *,
    version: str = "a1b2c3",
    step: int = 90,
    scorer: str = "toy-clip (1)",
    labelled: bool = True,
    seed: int = 0,
) -> Report:
    """Captions of the photos 0.png, 1.png, … with scores drawn by the seed."""
    rng = np.random.default_rng(seed)
    names = PER_IMAGE if labelled else PER_IMAGE[2:]
    images = tuple(
        EvaluatedImage(
            f"{row}.png",
            caption,
            {name: float(rng.integers(1, 9)) for name in names},
            (f"reference {row}", "another one") if labelled else (),
        )
        for row, caption in enumerate(captions)
    )
    figures = {name: float(np.mean([image.scores[name] for image in images])) for name in names}
    return Report(
        model="toy",
        version=version,
        stage="unsupervised",
        step=step,
        data="val",
        images=len(images),
        decoding={"strategy": "beam", "num_beams": 4},
        scorer=scorer,
        second_scorer="other 0000",
        prompt="",
        figures=figures | ({"bleu_4": 20.0 + step} if labelled else {}),
        skipped={},
        captions=images,
    )

"""Self-critical training on labelled images: samples that agree with people's captions become likelier."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.captioner import Captioner
from models.image_features import ImageFeatures
from training.cider import CiderRewards, cider_of
from training.config_parts import RolloutConfig
from training.estimators import Reinforce
from training.rollout import without_dropout
from training.sampling import Sampler


class SelfCritical:
    """CIDEr-D of sampled captions as a loss (arXiv 1612.00563); the labelled images are known by their rows.

    Args:
        token_ids: captions of each labelled image, with their end.
        rollout: how captions are sampled, and the baseline; CIDEr-D has no gradient, so the estimator is
            always REINFORCE.
    """

    def __init__(
        self, captioner: Captioner, token_ids: Sequence[Sequence[Tensor]], rollout: RolloutConfig
    ) -> None:
        self._captioner = captioner
        self._cider = cider_of(token_ids, captioner.tokenizer)
        tokenizer = captioner.tokenizer
        sampler = Sampler(tokenizer, tokenizer.pad_id, rollout.max_tokens, rollout.temperature)
        self._estimator = Reinforce(sampler, rollout.samples, rollout.baseline, rollout.advantages)

    def loss(self, features: ImageFeatures, rows: np.ndarray, generator: torch.Generator) -> Tensor:
        """Minus the mean CIDEr-D, 0 to 10, in value; the estimated gradient in gradient."""
        rewards = CiderRewards(self._cider, self._captioner.tokenizer, rows.tolist())
        with without_dropout(self._captioner):
            prefix = self._captioner.prefix(features)
            return self._estimator(self._captioner.decoder, prefix, rewards, generator).losses["cider"]

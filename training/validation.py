"""Held-out images while training: captions for a person to read, figures for the log."""

import numpy as np

from models.captioner import Captioner
from training.config import Places
from training.config_parts import DataConfig, EvaluationConfig
from training.data import CaptionedImages, Problems
from training.evaluate import (
    SecondOpinion,
    beam_options,
    evaluation_features,
    measure,
    read_photos_to_judge,
    read_second_opinion,
    write_captions,
)
from training.features import FeatureStore

SHOWN_CAPTIONS = 4


class Validation:
    """Captions held-out images and measures the captions."""

    def __init__(
        self,
        captioned: CaptionedImages,
        features: FeatureStore,
        config: EvaluationConfig,
        *,
        second: SecondOpinion | None = None,
    ) -> None:
        self._captioned, self._features, self._config, self._second = captioned, features, config, second

    def figures(self, captioner: Captioner) -> dict[str, float]:
        """What the captions are worth at the moment."""
        captions = self._write(captioner, len(self._captioned))
        scores = measure(captioner, self._captioned, self._features, captions=captions, second=self._second)
        return scores.figures

    def samples(self, captioner: Captioner) -> list[str]:
        """A few captions beside a reference, where there are any."""
        captions = self._write(captioner, min(SHOWN_CAPTIONS, len(self._captioned)))
        return [self._sample(row, caption) for row, caption in enumerate(captions)]

    def _sample(self, row: int, caption: str) -> str:
        references = self._captioned.captions[row]
        return f"{self._captioned.images.ids[row]}: {caption}" + (
            f"   [{references[0]}]" if references else ""
        )

    def _write(self, captioner: Captioner, count: int) -> list[str]:
        options = beam_options(self._config.num_beams, max_tokens=captioner.config.max_tokens)
        rows = np.arange(count)
        return write_captions(
            captioner, self._features, options, rows=rows, batch_size=self._config.batch_size
        )


def read_validation(
    captioner: Captioner, data: DataConfig, config: EvaluationConfig, places: Places, problems: Problems
) -> Validation | None:
    """The validation images of a configuration, None where it names none.

    Raises:
        DataError: none of them can be read.
    """
    if not data.validation:
        return None
    (source,) = places.sources([data.validation])
    captioned = read_photos_to_judge(source, problems)
    limit = min(count for count in (len(captioned), data.max_validation, config.max_images) if count)
    captioned = captioned.select(range(limit))
    features, readable = evaluation_features(
        captioned.images,
        captioner.clip,
        mapping=captioner.config.mapping,
        cache=places.cache,
        problems=problems,
    )
    if not readable:
        raise problems.nothing_left("data.validation")
    captioned = captioned.select(readable)
    judge = places.second_scorer(config.second_scorer)
    second = read_second_opinion(judge, captioned, places.cache, device=captioner.device)
    return Validation(captioned, features, config, second=second)

"""Pseudo-captions: unlabelled photos get captions of other photos that name what is surely in them."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from models.clip import ClipEncoder
from models.clip_folder import LOCAL_PREFIX
from models.config import ClipConfig
from training import distributed
from training.caption_choice import CaptionChooser, CaptionPool, Choice, photo_key
from training.classifier import class_probabilities, load_classifier
from training.config import Places, PseudoConfig
from training.data import DataError, ImageFile, Problems, clean_captions, read_records, sample_rows
from training.disk import replace_text
from training.features import cached_features
from training.folders import METADATA
from training.lexicon import WORD_FILE, Lexicon, read_imagenet_lexicon, with_prior
from training.metrics import encode_texts, words
from training.sources import read_image_sources

SUMMARY = "summary.json"


def run_pseudo(config: PseudoConfig, places: Places, problems: Problems) -> Path:
    """Writes metadata.jsonl, which `runs:STEP` in data.labelled reads, and summary.json; returns the first.

    Raises:
        DataError: no caption names a thing that the classifier knows, or it is sure of nothing in any photo.
    """
    device = distributed.start(config.device)
    lexicon = read_imagenet_lexicon()
    clip = ClipEncoder.load(ClipConfig(f"{LOCAL_PREFIX}{places.run(config.clip)}")).eval().to(device)
    pool = _read_pool(config, places, lexicon, clip, problems)
    photos = _read_photos(config, places, clip, problems, device=device)
    problems.report(places.out)
    likely = with_prior(
        photos.probabilities, lexicon, mentions=pool.names.mean(axis=0), strength=config.prior
    )
    chooser = CaptionChooser(
        pool,
        lexicon.confidence(likely),
        photos.embeddings,
        min_confidence=config.min_confidence,
        min_captions=config.min_captions,
        pool_size=config.pool_size,
    )
    choices = {
        name: choice
        for row, name in enumerate(photos.names)
        if (choice := chooser.choose(row, owner=photo_key(name), count=config.captions_per_image))
    }
    if not choices:
        raise DataError(
            f"the classifier is sure of nothing in {len(photos.names)} photos that enough captions name; "
            "lower min_confidence or min_captions, or add photos or captions"
        )
    lines = [
        json.dumps({"file_name": name, "captions": [pool.texts[row] for row in choice.captions]})
        for name, choice in choices.items()
    ]
    replace_text(places.out / METADATA, "\n".join(lines) + "\n")
    _write_summary(places.out / SUMMARY, lexicon, list(choices.values()), num_photos=len(photos.names))
    return places.out / METADATA


@dataclass(frozen=True)
class _Photos:
    """Args:
    names: file names, from the data root.
    """

    names: Sequence[str]
    probabilities: Float[np.ndarray, "photos classes"]
    embeddings: Float[Tensor, "photos embed"]


def _read_photos(
    config: PseudoConfig, places: Places, clip: ClipEncoder, problems: Problems, *, device: torch.device
) -> _Photos:
    data = config.data
    images = read_image_sources(places.sources(data.unlabelled), problems)
    images = images.select(sample_rows(len(images), count=data.max_unlabelled, seed=data.split_seed))
    names = [_name(file, places.data) for file in images.files]
    classifier = load_classifier(places.data / config.classifier, device=device)
    probabilities, readable = class_probabilities(
        images, classifier, cache=places.cache, workers=data.workers, problems=problems
    )
    features, seen = cached_features(
        images,
        clip,
        views=("original",),
        cache=places.cache,
        workers=data.workers,
        problems=problems,
    )
    both = sorted(set(readable) & set(seen))
    return _Photos(
        [names[row] for row in both],
        probabilities[np.searchsorted(readable, both)],
        features.embeddings()[np.searchsorted(seen, both)],
    )


def _name(file: ImageFile, root: Path) -> str:
    """A photo's path from the data root; links stay as they are, since what they lead to may be elsewhere."""
    if not isinstance(file, Path) or not file.absolute().is_relative_to(root.absolute()):
        raise DataError(f"{file} is no file below {root}; pseudo-captions are written for such photos only")
    return file.absolute().relative_to(root.absolute()).as_posix()


def _read_pool(
    config: PseudoConfig, places: Places, lexicon: Lexicon, clip: ClipEncoder, problems: Problems
) -> CaptionPool:
    texts: list[str] = []
    owners: list[str] = []
    for path in (places.data / file for file in config.data.text):
        for number, record in read_records(path):
            if config.caption_sources and record.get("source") not in config.caption_sources:
                continue
            for text in clean_captions(record, f"{path}:{number}", problems):
                if len(words(text)) <= config.max_words and lexicon.named_in(text):
                    texts.append(text)
                    owners.append(photo_key(str(record.get("image", ""))))
    if not texts:
        raise DataError(
            f"no caption of data.text from {', '.join(config.caption_sources) or 'any source'} has at most "
            f"{config.max_words} words and names a thing of {WORD_FILE}"
        )
    return CaptionPool(lexicon, texts, owners, encode_texts(clip, texts).float().cpu())


def _write_summary(path: Path, lexicon: Lexicon, choices: Sequence[Choice], *, num_photos: int) -> None:
    things = Counter(lexicon.things[choice.thing].name for choice in choices)
    confidence = float(np.mean([choice.confidence for choice in choices]))
    summary = {
        "photos": num_photos,
        "captioned": len(choices),
        "captions": sum(len(choice.captions) for choice in choices),
        "mean_confidence": round(confidence, 4),
        "things": dict(things.most_common()),
    }
    replace_text(path, json.dumps(summary, indent=1) + "\n")
    most = ", ".join(f"{name} {count}" for name, count in things.most_common(10))
    line = f"{len(choices)} of {num_photos} photos have pseudo-captions: {most}"
    Console().print(line, highlight=False, soft_wrap=True)

"""Part of benchmarks.cuda: whether the default model writes on a GPU what it writes on a CPU."""

from collections.abc import Sequence

import skimage.data
import torch
from PIL import Image
from rich.table import Table

from benchmarks.cuda_parts import WAIT_S, console, running, without_graphs
from models.checkpoint import load_captioner
from models.manifest import DEFAULT_CHECKPOINT
from service.engine.options import CaptionOptions
from service.engine.results import ScoredCaption
from service.engine.settings import EngineSettings
from service.engine.speed import Wanted


def compare_captions(device: torch.device) -> None:
    """The default model on real photos: the CPU's fp32, the GPU's fp32, the GPU's bf16."""
    photos = _photos()
    outcomes = {
        "fp32, CPU": _captions(torch.device("cpu"), photos, "fp32"),
        "fp32, GPU": _captions(device, photos, "fp32"),
        "bf16, GPU": _captions(device, photos, "bf16"),
    }
    with without_graphs():
        outcomes["fp32, GPU, no graphs"] = _captions(device, photos, "fp32")
    base = outcomes["fp32, CPU"]
    table = Table("default model", "captions equal to the CPU's fp32", "largest difference of similarity")
    for name, answers in outcomes.items():
        equal = [one.token_ids == other.token_ids for one, other in zip(answers, base, strict=True)]
        apart = [
            abs(one.clip_similarity - other.clip_similarity)
            for one, other, same in zip(answers, base, equal, strict=True)
            if same
        ]
        table.add_row(name, f"{sum(equal)} of {len(equal)}", f"{max(apart, default=0.0):.1e}")
    console.print(table)
    console.print("for example:", outcomes["bf16, GPU"][0].text)


def _captions(device: torch.device, photos: Sequence[Image.Image], precision: Wanted) -> list[ScoredCaption]:
    captioner = load_captioner(DEFAULT_CHECKPOINT, device=str(device))
    pixels = [captioner.clip.preprocess.resize(photo) for photo in photos]
    with running(captioner, EngineSettings(precision=precision)) as engine:
        futures = [
            engine.submit(image, options)
            for options in (CaptionOptions(), CaptionOptions("greedy"), CaptionOptions("sample", seed=7))
            for image in pixels
        ]
        return [future.result(WAIT_S).captions[0] for future in futures]


def _photos() -> list[Image.Image]:
    """Crops of scikit-image's photos."""
    sources = [
        Image.fromarray(photo)
        for photo in (skimage.data.cat(), skimage.data.coffee(), skimage.data.astronaut())  # type: ignore[no-untyped-call]
    ]
    crops = []
    for index in range(48):
        source = sources[index % len(sources)]
        left, top = 17 * index % (source.width // 2), 29 * index % (source.height // 2)
        crops.append(source.crop((left, top, left + source.width // 2, top + source.height // 2)))
    return crops

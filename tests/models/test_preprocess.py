"""Photos become pixels as the CLIP's own authors make them."""

from typing import Any

import open_clip
import pytest
import skimage.data
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from models.preprocess import Preprocess


@pytest.mark.parametrize(
    ("model", "tag"),
    [("ViT-B-32", "openai"), ("ViT-H-14", "dfn5b"), ("MobileCLIP2-B", "dfndr2b"), ("PE-Core-B-16", "meta")],
)
def test_pixels_are_those_of_open_clip(model: str, tag: str) -> None:
    named: Any = open_clip.get_pretrained_cfg(model, tag)
    settings = {name: named[name] for name in ("mean", "std", "interpolation", "resize_mode")} | {"size": 224}
    cat: Any = skimage.data.chelsea
    photo = Image.fromarray(cat()[:300, :300])  # a square: nothing is cropped
    ours = Preprocess.from_open_clip(settings)
    theirs = image_transform_v2(PreprocessCfg(**settings), is_train=False)(photo)
    torch.testing.assert_close(ours(photo), theirs, atol=1e-5, rtol=0)

"""Photos become pixels as the CLIP's own authors make them."""

import io
import struct
from typing import Any

import numpy as np
import open_clip
import pytest
import skimage.data
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import ExifTags, Image, ImageOps

from models.preprocess import Preprocess, to_rgb


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_photos_are_turned_upright(kind: str, orientation: int) -> None:
    photo = _photo(kind, orientation)
    with Image.open(io.BytesIO(photo)) as ours, Image.open(io.BytesIO(photo)) as theirs:
        expected = ImageOps.exif_transpose(theirs).convert("RGB")
        assert np.array_equal(np.asarray(to_rgb(ours)), np.asarray(expected))


def test_exif_data_of_a_wrong_type_do_not_cost_the_photo() -> None:
    """exif_transpose writes all of them again, and ends at a width that is a text."""
    photo = bytearray(_photo("JPEG", 6))
    at = photo.index(b"Exif") + 17
    assert photo[at] == ExifTags.Base.ImageDescription & 0xFF
    photo[at] = ExifTags.Base.ImageWidth & 0xFF
    with Image.open(io.BytesIO(photo)) as image:
        with pytest.raises(struct.error):
            ImageOps.exif_transpose(image)
        assert to_rgb(image).size == (20, 30)


def _photo(kind: str, orientation: int) -> bytes:
    file, exif, cat = io.BytesIO(), Image.Exif(), skimage.data.chelsea
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.ImageDescription] = orientation, "a cat"
    Image.fromarray(cat()[100:120, 100:130]).save(file, kind, exif=exif)  # type: ignore[no-untyped-call]
    return file.getvalue()

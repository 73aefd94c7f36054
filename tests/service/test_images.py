"""Untrusted bytes become an upright RGB image or a clear error."""

import contextlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from models.preprocess import Preprocess
from service.errors import BrokenImageError, ImageTooLargeError, ServiceError, UnsupportedImageError
from service.image_formats import FORMATS
from service.images import ImageFacts, ImageLimits, read_image, read_pixels
from tests.service import pictures

LIMITS = ImageLimits(max_bytes=5_000_000, max_pixels=1_000_000)


def read(data: bytes, *, needed_edge: int = 32) -> tuple[Image.Image, ImageFacts]:
    return read_image(data, limits=LIMITS, needed_edge=needed_edge)


def distance(left: Image.Image, right: Image.Image) -> float:
    """Mean difference of two pictures at thumbnail size, 0..255."""
    small = [np.asarray(image.convert("RGB").resize((24, 16)), dtype=float) for image in (left, right)]
    return float(np.abs(small[0] - small[1]).mean())


@pytest.mark.parametrize("format", FORMATS)
def test_every_listed_format_is_read_and_named(format: str) -> None:
    image, facts = read(pictures.encoded(pictures.cat(), format))
    assert (facts.format, facts.width, facts.height) == (format, 144, 96)
    assert distance(image, pictures.cat()) < 12


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kept", [0.02, 0.5])
def test_every_listed_format_is_refused_as_broken_when_cut_off(format: str, kept: float) -> None:
    whole = pictures.encoded(pictures.cat(), format)
    with pytest.raises(BrokenImageError):
        read(whole[: max(16, int(kept * len(whole)))])


def test_size_is_that_of_the_picture_as_displayed() -> None:
    image, facts = read(pictures.rotated_by_exif(pictures.cat()))
    assert (facts.width, facts.height) == (144, 96)
    assert distance(image, pictures.cat()) < 8


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_large_picture_on_its_side_is_turned_once_in_every_format(format: str) -> None:
    image, facts = read(pictures.rotated_by_exif(pictures.cat(600), format), needed_edge=50)
    assert (facts.width, facts.height) == (900, 600)
    assert distance(image, pictures.cat()) < 12


def test_exif_data_of_a_wrong_type_do_not_cost_the_photo() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.ImageDescription] = 6, "a cat"
    data = pictures.encoded(pictures.cat().rotate(90, expand=True), "JPEG", exif=exif)
    damaged = data.replace(b"\x01\x0e\x00\x02", b"\x01\x00\x00\x02")  # the description is now the width
    assert damaged != data
    image, facts = read(damaged)
    assert (facts.width, facts.height) == (144, 96)
    assert distance(image, pictures.cat()) < 12


def test_large_jpeg_is_decoded_at_reduced_size_but_reported_whole() -> None:
    image, facts = read(pictures.encoded(pictures.cat(600), "JPEG"), needed_edge=100)
    assert (facts.width, facts.height) == (900, 600)
    assert 100 <= min(image.size) < 200


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_large_picture_of_any_mode_is_reduced_and_looks_the_same(mode: str, format: str) -> None:
    large = pictures.cat(600)
    stored = pictures.in_mode(large, mode)
    image, facts = read(pictures.encoded(stored, format), needed_edge=50)
    assert (facts.width, facts.height) == (900, 600)
    assert 100 <= min(image.size) < 200
    assert distance(image, large.convert("L") if mode in ("1", "L", "LA", "I;16") else large) < 25


def test_sha256_is_of_the_posted_bytes() -> None:
    image = Image.new("RGB", (2, 2))
    data = pictures.encoded(image, "BMP")
    _, facts = read(data)
    assert len(facts.sha256) == 64
    assert facts.sha256 == read(data)[1].sha256 != read(pictures.encoded(image, "PNG"))[1].sha256


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame_with_a_warning(format: str) -> None:
    data = pictures.encoded(
        pictures.cat(), format, save_all=True, append_images=[Image.new("RGB", (144, 96))]
    )
    image, facts = read(data)
    assert facts.warnings
    assert distance(image, pictures.cat()) < 12


def test_still_picture_has_no_warning() -> None:
    assert read(pictures.encoded(pictures.cat(), "GIF"))[1].warnings == ()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", BrokenImageError),
        (b"just some text, not a picture at all", UnsupportedImageError),
        (pictures.encoded(pictures.cat(), "EPS"), UnsupportedImageError),
        (pictures.encoded(pictures.cat(), "PPM"), UnsupportedImageError),
        (b"%PDF-1.7 and so on", UnsupportedImageError),
        (b"\xff\xd8\xff\xe0" + bytes(60), BrokenImageError),
        (bytes(6_000_000), ImageTooLargeError),
        (pictures.one_bit_png(2000, 501), ImageTooLargeError),
        (pictures.one_bit_png(12_000, 12_000), ImageTooLargeError),
        (pictures.one_bit_png(60_000, 60_000), ImageTooLargeError),
    ],
    ids=["empty", "text", "eps", "ppm", "pdf", "jpeg-start", "many-bytes", "pixels", "bomb", "bigger-bomb"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_read_says_why(data: bytes, error: type[ServiceError]) -> None:
    with pytest.raises(error):
        read(data)


def test_picture_at_the_pixel_limit_is_read() -> None:
    assert read(pictures.one_bit_png(2000, 500))[1].width == 2000


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_bytes_behind_the_picture_and_broken_exif_do_not_matter() -> None:
    data = pictures.encoded(pictures.cat(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read(data + b"trailing")[1].width == 144


def test_pixels_have_the_size_of_the_model() -> None:
    preprocess = Preprocess(32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    pixels, facts = read_pixels(
        pictures.encoded(pictures.cat(), "JPEG"), limits=LIMITS, preprocess=preprocess
    )
    assert tuple(pixels.shape) == (3, 32, 32)
    assert facts.width == 144


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_raise_nothing_but_service_errors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(pictures.encoded(pictures.cat(), FORMATS[seed % len(FORMATS)]))
    for position in rng.integers(0, len(data), 20):
        data[position] = rng.integers(256)
    with contextlib.suppress(ImageTooLargeError, UnsupportedImageError, BrokenImageError):
        read(bytes(data))

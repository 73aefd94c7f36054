"""An iPhone's photos, with the extra `heic` and without."""

import pytest
from PIL import Image

from service import image_formats
from service.errors import BrokenImageError, ImageTooLargeError, UnsupportedImageError
from service.images import ImageLimits, read_image
from tests.service import pictures
from tests.service.test_images import distance

LIMITS = ImageLimits(max_bytes=5_000_000, max_pixels=1_000_000)
HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50)


@pytest.fixture
def with_heic() -> None:
    pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    assert image_formats.formats()[-1] == "HEIF"


@pytest.mark.usefixtures("with_heic")
def test_heic_is_read_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = pictures.cat().rotate(90, expand=True)
    image, facts = read_image(
        pictures.encoded(sideways, "HEIF", exif=exif.tobytes(), quality=90), limits=LIMITS, needed_edge=32
    )
    assert (facts.format, facts.width, facts.height) == ("HEIF", 144, 96)
    assert distance(image, pictures.cat()) < 12


@pytest.mark.usefixtures("with_heic")
def test_limits_and_damage_are_those_of_other_formats() -> None:
    data = pictures.encoded(pictures.cat(1000), "HEIF")
    with pytest.raises(ImageTooLargeError):
        read_image(data, limits=LIMITS, needed_edge=32)
    with pytest.raises(BrokenImageError):
        read_image(data[: len(data) // 2], limits=ImageLimits(5_000_000, 5_000_000), needed_edge=32)


def test_without_the_extra_the_answer_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_formats, "formats", lambda: image_formats.FORMATS)
    with pytest.raises(UnsupportedImageError, match=r"semicap\[heic\]"):
        read_image(HEAD, limits=LIMITS, needed_edge=32)

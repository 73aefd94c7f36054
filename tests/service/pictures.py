"""Image files for tests, good and bad, made from scikit-image's free photos."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import skimage.data
from PIL import Image

_ORIENTATION = 0x0112


def cat(edge: int = 96) -> Image.Image:
    """A photo of a cat, 3:2."""
    photo = Image.fromarray(skimage.data.cat())  # type: ignore[no-untyped-call]
    return photo.resize((edge * 3 // 2, edge), Image.Resampling.BICUBIC)


def photos(count: int, *, edge: int = 64) -> list[bytes]:
    """Different real photos as JPEG: crops of scikit-image's."""
    made: list[np.ndarray[Any, Any]] = [skimage.data.cat(), skimage.data.coffee(), skimage.data.astronaut()]  # type: ignore[no-untyped-call]
    sources = [Image.fromarray(photo) for photo in made]
    files = []
    for index in range(count):
        source = sources[index % len(sources)]
        left, top = 17 * index % (source.width // 2), 29 * index % (source.height // 2)
        crop = source.crop((left, top, left + source.width // 2, top + source.height // 2))
        files.append(encoded(crop.resize((edge, edge)), "JPEG", quality=90))
    return files


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    """The image as a file."""
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def rotated_by_exif(image: Image.Image, format: str = "JPEG") -> bytes:
    """A file stored on its side, with the EXIF orientation that sets it upright."""
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return encoded(image.rotate(90, expand=True), format, quality=95, exif=exif)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in one of Pillow's modes; 16 bits use their full range."""
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257)
    return image.convert(mode)


def transparent_png(image: Image.Image) -> bytes:
    """The image with a frame that is transparent and hides red."""
    canvas = Image.new("RGBA", (image.width + 40, image.height + 40), (255, 0, 0, 0))
    canvas.paste(image.convert("RGBA"), (20, 20))
    return encoded(canvas, "PNG")


def on_white(image: Image.Image) -> bytes:
    """What a person sees of `transparent_png` on a white page."""
    canvas = Image.new("RGB", (image.width + 40, image.height + 40), "white")
    canvas.paste(image, (20, 20))
    return encoded(canvas, "PNG")


def animated_gif(image: Image.Image) -> bytes:
    """The image, then its negative."""
    first = image.convert("P")
    return encoded(first, "GIF", save_all=True, append_images=[Image.eval(image, lambda value: 255 - value)])


def truncated_jpeg(image: Image.Image) -> bytes:
    """The first half of a JPEG."""
    whole = encoded(image, "JPEG")
    return whole[: len(whole) // 2]


def one_bit_png(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that decodes to width x height pixels."""
    rows = zlib.compress(b"\0" * ((width + 7) // 8 + 1) * height, 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

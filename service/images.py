"""Untrusted bytes to an image: limits before decoding, allow-listed formats, clear errors."""

import hashlib
from dataclasses import dataclass
from io import BytesIO

from jaxtyping import UInt8
from PIL import Image, ImageFile
from torch import Tensor

from models.preprocess import Preprocess, to_rgb, turned_upright
from service.errors import BrokenImageError, ImageTooLargeError, UnsupportedImageError
from service.image_formats import formats, recognised_format
from service.sizes import size_text

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")

_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_HEADER_BYTES = 32
_OVERSAMPLING = 2


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before it is decoded."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class ImageFacts:
    """What an answer says of a posted image.

    Args:
        width, height: in pixels, as displayed.
        format: Pillow's name of the format.
        sha256: of the posted bytes.
    """

    width: int
    height: int
    format: str
    sha256: str
    warnings: tuple[str, ...] = ()


def read_pixels(
    data: bytes, *, limits: ImageLimits, preprocess: Preprocess, sha256: str | None = None
) -> tuple[UInt8[Tensor, "3 height width"], ImageFacts]:
    """An image as the engine takes it, at the model's size. Args and errors as of read_image."""
    needed_edge = preprocess.min_source_size
    rgb, facts = read_image(data, limits=limits, needed_edge=needed_edge, sha256=sha256)
    return preprocess.resize(rgb), facts


def read_image(
    data: bytes, *, limits: ImageLimits, needed_edge: int, sha256: str | None = None
) -> tuple[Image.Image, ImageFacts]:
    """Decodes an image that nobody vouches for: upright RGB, transparency on white.

    Args:
        needed_edge: a JPEG may be decoded at reduced size down to this many pixels on both edges.
        sha256: of the data, where it is known already.

    Raises:
        ImageTooLargeError: too many bytes or pixels.
        UnsupportedImageError: not an image, or of a format that is not read.
        BrokenImageError: of a known format, but truncated or damaged.
    """
    if len(data) > limits.max_bytes:
        raise too_many_bytes(len(data), limits.max_bytes)
    with _open(data, limits) as image:
        width, height = _displayed_size(image)
        facts = ImageFacts(
            width=width,
            height=height,
            format=_format_of(image),
            sha256=sha256 or sha256_of(data),
            warnings=_warnings_of(image),
        )
        return _decode(image, needed_edge), facts


def sha256_of(data: bytes) -> str:
    """What identifies an image file, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def too_many_bytes(count: int, max_bytes: int) -> ImageTooLargeError:
    """The error for an image file that is too long."""
    return ImageTooLargeError(
        f"the image has {size_text(count)}, more than the {size_text(max_bytes)} that are taken",
        max_bytes=max_bytes,
    )


def _open(data: bytes, limits: ImageLimits) -> ImageFile.ImageFile:
    try:
        image = Image.open(BytesIO(data), formats=formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(limits) from error
    except Exception as error:
        raise _unreadable(data) from error
    if image.width * image.height > limits.max_pixels:
        image.close()
        raise _too_many_pixels(limits, size=image.size)
    return image


def _too_many_pixels(limits: ImageLimits, *, size: tuple[int, int] | None = None) -> ImageTooLargeError:
    stated = f"the image is {size[0]} x {size[1]}" if size else "the image's header states a huge size"
    return ImageTooLargeError(
        f"{stated}; at most {limits.max_pixels} pixels are decoded", max_pixels=limits.max_pixels
    )


def _unreadable(data: bytes) -> BrokenImageError | UnsupportedImageError:
    if not data:
        return BrokenImageError("the image is empty: it has 0 bytes")
    known = recognised_format(data[:_HEADER_BYTES])
    if known is not None:
        return BrokenImageError(f"the file begins like {known} but its header is damaged or cut off")
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return UnsupportedImageError("HEIC is read where its extra is installed: pip install 'semicap[heic]'")
    return UnsupportedImageError(
        f"the file is none of the formats that are read: {', '.join(formats())}", formats=list(formats())
    )


def _displayed_size(image: Image.Image) -> tuple[int, int]:
    if _format_of(image) == "TIFF":  # which Pillow turns itself, and states so
        return image.size
    try:
        sideways = image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
    except Exception:  # noqa: BLE001 - broken EXIF is no reason to refuse the picture
        sideways = False
    return (image.height, image.width) if sideways else (image.width, image.height)


def _decode(image: Image.Image, needed_edge: int) -> Image.Image:
    try:
        if _format_of(image) == "JPEG":
            image.draft(None, (needed_edge, needed_edge))
        return to_rgb(_reduced(turned_upright(image), needed_edge))
    except MemoryError:
        raise
    except Exception as error:
        raise BrokenImageError(f"the {_format_of(image)} image is truncated or damaged") from error


def _reduced(image: Image.Image, needed_edge: int) -> Image.Image:
    """A large picture averaged down to at least twice the needed size, as draft() does for JPEG.

    At full size 49 megapixels took 1.1 GB (transparent PNG) and 1.7 GB (16 bits); reduced first, under 0.4.
    """
    factor = min(image.size) // (_OVERSAMPLING * needed_edge)
    if factor < 2:
        return image
    if image.has_transparency_data:
        return (image if image.mode == "RGBA" else image.convert("RGBA")).reduce(factor)
    if image.mode.startswith("I;16"):  # reduce() does not take it
        return image.resize((image.width // factor, image.height // factor), Image.Resampling.BOX)
    return (image.convert("RGB") if image.mode in ("1", "P") else image).reduce(factor)


def _format_of(image: Image.Image) -> str:
    name = image.format or "unknown"
    return "JPEG" if name == "MPO" else name  # a phone's JPEG with further pictures behind it


def _warnings_of(image: Image.Image) -> tuple[str, ...]:
    if image.format != "MPO" and getattr(image, "is_animated", False):
        return ("the file has several frames; the caption is of the first",)
    return ()

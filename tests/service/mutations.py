"""Damaged and hostile image files in any number, the same ones for the same seed."""

import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from service.image_formats import FORMATS
from tests.service import pictures

Rng = np.random.Generator
HUGE = (0, 1, 255, 4096, 30_000, 65_535, 0x7FFF_FFFF, 0xFFFF_FFFF)


def mutated_files(count: int, *, seed: int) -> Iterator[tuple[str, bytes]]:
    """Files with the name of what was done to each; every kind comes round in turn."""
    originals = _originals()
    kinds = list(_MUTATIONS.items())
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        kind, mutate = kinds[index % len(kinds)]
        name, data = originals[int(rng.integers(len(originals)))]
        yield f"{index} {kind} {name}", mutate(data, rng)


def _originals() -> list[tuple[str, bytes]]:
    photo = pictures.cat()
    made = [(name, pictures.encoded(photo, name)) for name in FORMATS]
    made += [
        (f"{mode} PNG", pictures.encoded(pictures.in_mode(photo, mode), "PNG"))
        for mode in ("1", "P", "LA", "I;16")
    ]
    made += [
        (f"{mode} TIFF", pictures.encoded(pictures.in_mode(photo, mode), "TIFF"))
        for mode in ("1", "F", "CMYK")
    ]
    made += [
        (f"{compression} TIFF", pictures.encoded(photo, "TIFF", compression=compression))
        for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")
    ]
    made += [
        ("progressive JPEG", pictures.encoded(photo, "JPEG", progressive=True)),
        ("GIF film", pictures.animated_gif(photo)),
    ]
    return [
        *made,
        ("EXIF JPEG", pictures.rotated_by_exif(photo)),
        ("CMYK JPEG", pictures.encoded(photo.convert("CMYK"), "JPEG")),
    ]


def _flip_bits(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for position in rng.integers(0, len(data), int(rng.integers(1, 60))):
        changed[position] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(len(data)))]


def _spoil_header(data: bytes, rng: Rng) -> bytes:
    """Extreme numbers where sizes, counts and offsets stand, in either byte order."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        order, width = ("<>"[int(rng.integers(2))], "HI"[int(rng.integers(2))])
        value = HUGE[int(rng.integers(len(HUGE)))] & (0xFFFF if width == "H" else 0xFFFF_FFFF)
        struct.pack_into(order + width, changed, int(rng.integers(2, min(200, len(data) - 4))), value)
    return bytes(changed)


def _repeat_a_part(data: bytes, rng: Rng) -> bytes:
    start, end = sorted(int(place) for place in rng.integers(0, len(data), 2))
    return data[:end] + data[start:end] * int(rng.integers(1, 20)) + data[end:]


def _leave_a_part_out(data: bytes, rng: Rng) -> bytes:
    start, end = sorted(int(place) for place in rng.integers(0, len(data), 2))
    return data[:start] + data[end:]


def _overwrite_a_part(data: bytes, rng: Rng) -> bytes:
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 400))
    return data[:start] + rng.bytes(length) + data[start + length :]


def _put_another_beginning(data: bytes, rng: Rng) -> bytes:
    """The first bytes of one format before the rest of another."""
    _, other = _OTHER_BEGINNINGS[int(rng.integers(len(_OTHER_BEGINNINGS)))]
    return other[: int(rng.integers(4, 64))] + data[int(rng.integers(0, 64)) :]


def _wrong_type(data: bytes, rng: Rng) -> bytes:
    wrong = (
        b"",
        b"\0",
        rng.bytes(int(rng.integers(1, 5000))),
        b"%PDF-1.7\n" + rng.bytes(500),
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        b"PK\x03\x04" + rng.bytes(500),
        b"P6 60000 60000 255\n" + rng.bytes(50),
        b"\x1f\x8b" + zlib.compress(bytes(1000)),
        "ein Text, kein Bild: äöü".encode() * 20,
        data[::-1],
    )
    return wrong[int(rng.integers(len(wrong)))]


def _state_a_huge_size(data: bytes, rng: Rng) -> bytes:
    """Small files that are well-formed but for the pixels that they announce."""
    width, height = (int(side) for side in rng.choice([1, 4000, 20_000, 65_000], 2))
    sof = struct.pack(">HBHHB", 17, 8, min(height, 65_535), min(width, 65_535), 3) + bytes(
        [1, 17, 0, 2, 17, 0, 3, 17, 0]
    )
    files = (
        pictures.one_bit_png(width, 2000),
        b"GIF89a" + struct.pack("<HHBBB", min(width, 65_535), min(height, 65_535), 0x80, 0, 0) + bytes(40),
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, width, -height, 1, 24, 0, 0, 0, 0, 0, 0),
        b"\xff\xd8\xff\xc0" + sof + rng.bytes(200),
        b"RIFF"
        + struct.pack("<I", 100)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + bytes([16, 0, 0, 0])
        + b"\xff" * 6
        + bytes(50),
        b"II*\0"
        + struct.pack("<IH", 8, 2)
        + struct.pack("<HHIIHHII", 256, 4, 1, width, 257, 4, 1, height)
        + bytes(4),
    )
    return files[int(rng.integers(len(files)))]


def _swell_when_decoded(data: bytes, rng: Rng) -> bytes:
    """Few bytes that take as much memory as a picture within the limits can."""
    side = int(rng.integers(2000, 3160))
    mode = ("1", "L", "P", "RGBA", "I;16")[int(rng.integers(5))]
    flat = Image.new(mode, (side, side))
    if rng.integers(2):
        return pictures.encoded(flat, "PNG", compress_level=1)
    return pictures.encoded(flat, "TIFF", compression="tiff_lzw")


def _lie_in_a_chunk(data: bytes, rng: Rng) -> bytes:
    """A PNG whose text or colour profile swells, or whose chunk states more bytes than there are."""
    bomb = zlib.compress(bytes(30_000_000), 9)
    chunks = (
        (b"zTXt", b"Comment\0\0" + bomb),
        (b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        (b"iCCP", b"profile\0\0" + bomb),
        (b"eXIf", b"MM\0*" + rng.bytes(300)),
        (b"PLTE", rng.bytes(int(rng.integers(0, 900)))),
    )
    name, content = chunks[int(rng.integers(len(chunks)))]
    png = pictures.encoded(pictures.cat(), "PNG")
    stated = len(content) if rng.integers(4) else int(HUGE[int(rng.integers(len(HUGE)))])
    chunk = struct.pack(">I", stated) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return png[:33] + chunk + png[33:]


_OTHER_BEGINNINGS = _originals()[: len(FORMATS)]

_MUTATIONS: dict[str, Callable[[bytes, Rng], bytes]] = {
    "bit flips": _flip_bits,
    "cut": _cut,
    "spoilt header": _spoil_header,
    "repeated part": _repeat_a_part,
    "bit flips again": _flip_bits,
    "missing part": _leave_a_part_out,
    "overwritten part": _overwrite_a_part,
    "spoilt header again": _spoil_header,
    "other beginning": _put_another_beginning,
    "wrong type": _wrong_type,
    "huge size": _state_a_huge_size,
    "lying chunk": _lie_in_a_chunk,
    "swelling": _swell_when_decoded,
}

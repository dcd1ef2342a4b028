"""One encoded picture -> one array at its full depth.

Pillow reads 16-bit gray PNGs in full but cuts 16-bit colour down to 8 bits without a word, so those are decoded here:
a PNG row stores each byte minus a prediction from its left, upper and upper-left neighbours a, b, c (PNG specification,
section 9: none, sub, up, average, Paeth), modulo 256. Pixel (r, k) needs only pixels of smaller r + k, so whole
anti-diagonals are computed at once.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

__all__ = ["Undecodable", "decode", "decode_mask", "from_pillow", "glance", "to_channels"]

_GRAY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"}


class Undecodable(ValueError):
    """A picture that cannot be used; the message is the reason alone."""


def decode(data: bytes, alpha: str = "refuse") -> tuple[np.ndarray, str | None]:
    """The picture (H, W, 1 or 3), uint8 or uint16, and what it was converted from where that loses something.

    An opaque alpha channel is dropped; else alpha says: "refuse", "drop", or composite on "white" or "black". Raises
    Undecodable for damaged, animated, transparent (if refused) or odd pictures.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data))
            if getattr(picture, "n_frames", 1) > 1:
                raise Undecodable(f"is animated ({picture.n_frames} frames); save single frames")  # type: ignore[attr-defined]
            if picture.format == "PNG" and data[24] == 16 and data[25] != 0:
                return _flatten(_png16(data), alpha), None
            picture.load()
    except Undecodable:
        raise
    # Pillow raises OSError, SyntaxError, ValueError, zlib.error, struct.error ... for damaged files.
    except Exception as error:
        raise Undecodable(f"cannot be decoded ({error}); it is damaged, cut short or no picture") from None
    return from_pillow(picture, alpha)


def from_pillow(picture: Image.Image, alpha: str = "refuse") -> tuple[np.ndarray, str | None]:
    """`decode` for an opened picture, turned upright as its EXIF orientation says."""
    picture = ImageOps.exif_transpose(picture)
    mode, lost = picture.mode, None
    if mode in ("I", "I;16", "I;16B", "I;16L"):
        deep = np.asarray(picture)
        if deep.min() < 0 or deep.max() > 65535:
            raise Undecodable(f"holds values from {deep.min()} to {deep.max()}, beyond 16 bits; store it as an array")
        return deep.astype(np.uint16)[..., None], None
    if "transparency" in picture.info or mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        picture = picture.convert("LA" if mode in ("LA", "La") else "RGBA")
    elif mode in ("1", "P"):
        picture = picture.convert("L" if mode == "1" else "RGB")
    elif mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        picture, lost = picture.convert("RGB"), f"{mode} to RGB"
    elif mode not in ("L", "RGB"):
        raise Undecodable(f"has the pixel format {mode}; convert it to RGB, or store it as an array")
    pixels = np.asarray(picture)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return _flatten(pixels, alpha), lost


def glance(data: bytes) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3) from the header, and whether the end is there, without decoding.

    Raises Undecodable for what is no picture or obviously cut short.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data))
            width, height = picture.size
            # Asking a PNG for its orientation decodes it, so only those that have one are asked.
            turned = picture.format != "PNG" or b"eXIf" in data
            if turned and picture.getexif().get(0x0112, 1) >= 5:
                width, height = height, width
    except Exception as error:
        raise Undecodable(f"cannot be decoded ({error}); it is damaged, cut short or no picture") from None
    tail = data[-65536:]
    whole = {
        "PNG": b"IEND" in tail,
        "JPEG": b"\xff\xd9" in tail,
        "WEBP": len(data) >= struct.unpack("<I", data[4:8])[0] + 8,
    }
    if not whole.get(picture.format or "", True):
        raise Undecodable("is cut short (its end is missing)")
    return height, width, 1 if picture.mode in _GRAY else 3


def to_channels(pixels: np.ndarray, channels: int) -> tuple[np.ndarray, str | None]:
    """(H, W, 1 or 3) with 1 or 3 channels: gray is repeated; colour becomes Pillow's "L" (ITU-R BT.601 luma)."""
    found = pixels.shape[-1]
    if found == channels:
        return pixels, None
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1), None
    if (pixels == pixels[..., :1]).all():
        return pixels[..., :1], None
    luma = (pixels.astype(np.int64) @ np.array([19595, 38470, 7471]) + 32768) >> 16
    return luma.astype(pixels.dtype)[..., None], "colour to gray"


def decode_mask(data: bytes, size: Sequence[int], of: str = "pictures", all_hidden: bool = False) -> np.ndarray:
    """A picture of a mask -> (H, W) bool, True = observed. size: (height, width) of the `of` it belongs to.

    Raises Undecodable for a damaged mask, one of another size, and, unless `all_hidden`, one that hides everything.
    """
    pixels, _ = to_channels(decode(data, "drop")[0], 1)
    if pixels.shape[:2] != tuple(size):
        found = f"{pixels.shape[0]} x {pixels.shape[1]}"
        raise Undecodable(f"is {found} pixels (height x width), the {of} are {size[0]} x {size[1]}")
    # Masks of zeros and ones look black to people but are common; else the middle of the range divides.
    high = int(pixels.max())
    mask = pixels[..., 0] > (0 if high == 1 else np.iinfo(pixels.dtype).max // 2)
    if not (all_hidden or mask.any()):
        raise Undecodable("hides every pixel; white means observed")
    return mask


def _flatten(pixels: np.ndarray, alpha: str) -> np.ndarray:
    """(H, W, C) without alpha, C = 1 or 3."""
    if pixels.shape[-1] in (1, 3):
        return pixels
    colour, opacity = pixels[..., :-1], pixels[..., -1:]
    full = np.iinfo(pixels.dtype).max
    if alpha == "drop" or (opacity == full).all():
        return np.ascontiguousarray(colour)
    if alpha == "refuse":
        raise Undecodable("has transparent pixels; say what is behind them with alpha: white, black or drop")
    ground = full if alpha == "white" else 0
    mixed = colour.astype(np.int64) * opacity + ground * (full - opacity.astype(np.int64))
    return ((mixed + full // 2) // full).astype(pixels.dtype)


def _png16(data: bytes) -> np.ndarray:
    """A 16-bit colour or gray-and-alpha PNG -> (H, W, C) uint16."""
    width, height, _, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if interlaced:
        raise Undecodable("is an interlaced 16-bit PNG; save it without interlacing")
    channels, packed, at = {2: 3, 4: 2, 6: 4}[colour], [], 8
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if kind == b"tRNS":
            raise Undecodable("is a 16-bit PNG with one colour declared transparent; save it with an alpha channel")
        if kind in (b"IDAT", b"IHDR") and zlib.crc32(kind + body) != int.from_bytes(data[at + 8 + length :][:4], "big"):
            raise Undecodable("is damaged (a checksum is wrong) or cut short")
        if kind == b"IDAT":
            packed.append(body)
        at += length + 12
    step = 2 * channels
    size = height * (1 + width * step)
    raw = zlib.decompressobj().decompress(b"".join(packed), size)
    if len(raw) < size:
        raise Undecodable("is cut short")
    rows = np.frombuffer(raw, np.uint8).reshape(height, 1 + width * step)
    filters, rest = rows[:, 0], rows[:, 1:].reshape(height, width, step).astype(np.int32)
    if filters.max() > 4:
        raise Undecodable(f"is damaged (row filter {filters.max()})")
    # One row and one column of zeros in front: the neighbours of the first ones.
    out = np.zeros((height + 1, width + 1, step), np.int32)
    for diagonal in range(height + width - 1):
        r = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        k = diagonal - r
        a, b, c = out[r + 1, k], out[r, k + 1], out[r, k]
        p = a + b - c
        pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
        paeth = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c))
        guess = np.choose(filters[r][:, None], [np.zeros_like(a), a, b, (a + b) // 2, paeth])
        out[r + 1, k + 1] = (rest[r, k] + guess) & 255
    return np.ascontiguousarray(out[1:, 1:].astype(np.uint8)).view(">u2").astype(np.uint16)

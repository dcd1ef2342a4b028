"""One encoded picture -> one array at its full depth.

Pillow reads 16-bit gray PNGs in full but cuts 16-bit colour down to its upper bytes without a word. Asked to,
its PNG decoder unpacks the lower bytes (raw mode "RGB;16L" in place of "RGB;16B"), so such files are decoded twice:

    value = 256 upper + lower .

Only formats that Pillow decodes by itself are opened: whatever its name, a PostScript file would start an interpreter.
"""

from __future__ import annotations

import io
import stat
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

__all__ = [
    "FORMATS", "Undecodable", "check_regular", "decode", "decode_mask", "from_pillow", "read_file", "read_header",
    "to_channels",
]  # fmt: skip

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_GRAY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"}
_UNREADABLE = "cannot be decoded ({}); it is damaged, cut short or no picture"


class Undecodable(ValueError):
    """A file that cannot be used; the message is the reason alone."""


def check_regular(path: Path) -> None:
    """Raises Undecodable for pipes and devices, whose end may never come; OSError where there is no such file."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise Undecodable("is no regular file")


def read_file(path: Path) -> bytes:
    """All of a regular file. Raises Undecodable where it cannot be read, or is a pipe or a device."""
    try:
        check_regular(path)
        return path.read_bytes()
    except OSError as error:
        raise Undecodable(f"cannot be read ({error.strerror})") from None


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=FORMATS)


def decode(data: bytes, alpha: str = "refuse") -> tuple[np.ndarray, str | None]:
    """The picture (H, W, 1 or 3), uint8 or uint16, and what it was converted from where that loses something.

    An opaque alpha channel is dropped; else alpha says: "refuse", "drop", or composite on "white" or "black". Raises
    Undecodable for damaged, animated, transparent (if refused) or odd pictures.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = _open(data)
            if getattr(picture, "n_frames", 1) > 1:
                raise Undecodable(f"is animated ({picture.n_frames} frames); save single frames")  # type: ignore[attr-defined]
            # The header chunk of a PNG: depth at byte 24, kind of colour at byte 25.
            if picture.format == "PNG" and data[24] == 16 and data[25] != 0:
                return _flatten(_decode_16_bit(data), alpha), None
            picture.load()
    except Undecodable:
        raise
    # Pillow raises OSError, SyntaxError, ValueError, zlib.error, struct.error ... for damaged files.
    except Exception as error:
        raise Undecodable(_UNREADABLE.format(error)) from None
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


def read_header(data: bytes) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3) from the header, and whether the end is there, without decoding.

    Raises Undecodable for what is no picture or obviously cut short.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = _open(data)
            width, height = picture.size
            # Asking a PNG for its orientation decodes it, so only those that have one are asked.
            turned = picture.format != "PNG" or b"eXIf" in data
            if turned and picture.getexif().get(0x0112, 1) >= 5:
                width, height = height, width
    except Exception as error:
        raise Undecodable(_UNREADABLE.format(error)) from None
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
    """(H, W, C) with the channels asked for: gray is repeated; colour becomes Pillow's "L" (ITU-R BT.601 luma)."""
    found = pixels.shape[-1]
    if found == channels:
        return pixels, None
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1), None
    if (pixels == pixels[..., :1]).all():
        return pixels[..., :1], None
    weights = np.array([19595, 38470, 7471])
    if pixels.dtype.kind == "f":
        luma = pixels @ (weights / 65536)
    else:
        luma = (pixels.astype(np.int64) @ weights + 32768) >> 16
    return luma.astype(pixels.dtype)[..., None], "colour to gray"


def decode_mask(data: bytes, size: Sequence[int], of: str = "pictures", all_hidden: bool = False) -> np.ndarray:
    """A picture of a mask -> (H, W) bool, True = observed. size: (height, width) of the `of` it belongs to.

    Raises Undecodable for a damaged mask, one of a different size, and, unless `all_hidden`, one that hides everything.
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


def _decode_16_bit(data: bytes) -> np.ndarray:
    """A 16-bit colour or gray-and-alpha PNG -> (H, W, C) uint16."""
    _open(data).verify()  # checksums, which decoding does not look at

    def unpack(rawmode: str) -> np.ndarray:
        with _open(data) as picture:
            if "transparency" in picture.info:
                raise Undecodable("is a 16-bit PNG with one colour declared transparent; save it with an alpha channel")
            picture.tile = [(*tile[:3], rawmode) for tile in picture.tile]  # type: ignore[attr-defined]
            return np.asarray(picture).astype(np.uint16)

    kind = data[25]
    if kind == 4:
        # Gray and alpha are four bytes a pixel, as 8-bit RGBA is.
        high_and_low = unpack("RGBA")
        return high_and_low[..., 0::2] << 8 | high_and_low[..., 1::2]
    mode = {2: "RGB", 6: "RGBA"}[kind]
    return unpack(f"{mode};16B") << 8 | unpack(f"{mode};16L")

"""One encoded picture -> one array at its full depth.

Pillow reads 16-bit gray PNGs in full but cuts 16-bit colour down to its upper bytes without a word. Asked to,
its PNG decoder unpacks the lower bytes (raw mode "RGB;16L" in place of "RGB;16B"), so such files are decoded twice:

    value = 256 upper + lower .

Only formats that Pillow decodes by itself are opened: whatever its name, a PostScript file would start an interpreter.
The header says how many pixels there are before memory is taken for them.
"""

from __future__ import annotations

import io
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bootdiff.data.options import MAX_PIXELS
from bootdiff.data.readers.heif import HEIF_SUFFIXES, MissingLibrary, is_heif, is_whole, open_heif

__all__ = [
    "FORMATS", "IMAGE_SUFFIXES", "Transparent", "Undecodable", "check_pixels", "check_regular", "decode",
    "from_pillow", "glance", "own_limit", "read_file", "split_alpha", "to_channels", "too_large",
]  # fmt: skip

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".avif", *HEIF_SUFFIXES)
_GRAY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"}
_ALPHA = {"RGBA", "RGBa", "LA", "La", "PA"}
_CONVERTED = {"CMYK", "YCbCr", "LAB", "HSV"}
_MODES = _GRAY | _ALPHA | _CONVERTED | {"P", "RGB"}
_ORIENTATION = 0x0112  # EXIF's tag
_UNREADABLE = "cannot be decoded ({}); it is damaged, cut short or no picture"


class Undecodable(ValueError):
    """A file that cannot be used; the message is the reason alone."""


class Transparent(Undecodable):
    """A picture that is transparent where nobody said what that means."""


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


def check_pixels(width: int, height: int, most: int) -> None:
    """Raises Undecodable for a picture of more than `most` pixels."""
    if width * height > most:
        raise Undecodable(
            f"has {width} x {height} = {width * height:,} pixels, more than max_pixels ({most:,}): raise that if it is "
            "meant, or cut it into smaller pictures"
        )


def too_large(unpacked: int, most: int) -> str:
    """What is wrong with a packed file that unpacks to more than `most` bytes."""
    return f"unpacks to {unpacked:,} bytes, more than max_bytes ({most:,}): raise that if it is meant"


@contextmanager
def own_limit() -> Iterator[None]:
    """`check_pixels` in place of Pillow's own limit, which nothing could raise."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _open(data: bytes, most: int) -> Image.Image:
    picture = open_heif(data) if is_heif(data) else Image.open(io.BytesIO(data), formats=FORMATS)
    check_pixels(*picture.size, most)
    return picture


@contextmanager
def _reading() -> Iterator[None]:
    """Whatever Pillow raises for damaged files becomes Undecodable."""
    try:
        with own_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Undecodable, MemoryError):
        raise
    except MissingLibrary as error:
        raise Undecodable(str(error)) from None
    except UnidentifiedImageError:
        raise Undecodable(_UNREADABLE.format("no known format")) from None
    # Pillow raises OSError, SyntaxError, ValueError, zlib.error, struct.error ... for damaged files.
    except Exception as error:
        raise Undecodable(_UNREADABLE.format(" ".join(str(error).split()))) from None


def _open_still(data: bytes, alpha: str, most: int) -> Image.Image:
    """An opened picture; Undecodable where its header tells that it cannot be used."""
    picture = _open(data, most)
    _refuse_animated(picture)
    if picture.mode not in _MODES:
        raise Undecodable(f"has the pixel format {picture.mode}; convert it to RGB, or store it as an array")
    if _is_deep(picture, data) and "transparency" in picture.info and alpha != "drop":
        raise Undecodable(
            "is a 16-bit PNG with one colour declared transparent; save it with an alpha channel, or say alpha: drop"
        )
    return picture


def _refuse_animated(picture: Image.Image) -> None:
    frames = getattr(picture, "n_frames", 1)
    # Cameras put a second, smaller picture behind the first one (Multi-Picture Format).
    if frames > 1 and picture.format != "MPO":
        raise Undecodable(f"is animated ({frames} frames); save single frames")


def _is_deep(picture: Image.Image, data: bytes) -> bool:
    # The header chunk of a PNG: depth at byte 24, kind of colour at byte 25.
    return picture.format == "PNG" and data[24] == 16


def _has_alpha(picture: Image.Image) -> bool:
    deep = picture.mode in ("I", "I;16", "I;16B", "I;16L")
    return picture.mode in _ALPHA or ("transparency" in picture.info and not deep)


def decode(data: bytes, alpha: str = "refuse", most: int = MAX_PIXELS) -> tuple[np.ndarray, str | None]:
    """The picture (H, W, 1 or 3), uint8 or uint16, and what it was converted from where that loses something.

    An opaque alpha channel is dropped; else alpha says: "refuse", "drop", or composite on "white" or "black"; or
    "keep", which leaves it in place, opaque or not: (H, W, 2 or 4). Of several pictures in a camera's file the first
    one counts. Raises Undecodable for damaged, animated, transparent (if refused) or odd pictures, and for those of
    more than `most` pixels.
    """
    with _reading():
        picture = _open_still(data, alpha, most)
        if _is_deep(picture, data) and data[25] != 0:
            return _flatten(_decode_16_bit(data), alpha), None
        picture.load()
    pixels, lost = from_pillow(picture, alpha)
    return pixels, lost or _fewer_bits(picture)


def from_pillow(picture: Image.Image, alpha: str = "refuse") -> tuple[np.ndarray, str | None]:
    """`decode` for an opened picture, turned upright as its EXIF orientation says."""
    _refuse_animated(picture)
    if picture.getexif().get(_ORIENTATION, 1) != 1:  # else it would be copied
        picture = ImageOps.exif_transpose(picture)
    mode, lost = picture.mode, None
    if mode in ("I", "I;16", "I;16B", "I;16L"):
        deep = np.asarray(picture)
        if deep.min() < 0 or deep.max() > 65535:
            raise Undecodable(f"holds values from {deep.min()} to {deep.max()}, beyond 16 bits; store it as an array")
        return deep.astype(np.uint16)[..., None], None
    if _has_alpha(picture):
        picture = picture.convert("LA" if mode in ("LA", "La") else "RGBA")
    elif mode in ("1", "P"):
        picture = picture.convert("L" if mode == "1" else "RGB")
    elif mode in _CONVERTED:
        picture, lost = picture.convert("RGB"), f"{mode} to RGB"
    elif mode not in ("L", "RGB"):
        raise Undecodable(f"has the pixel format {mode}; convert it to RGB, or store it as an array")
    pixels = np.asarray(picture)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return _flatten(pixels, alpha), lost


def _fewer_bits(picture: Image.Image) -> str | None:
    """What is lost of the values of a HEIC picture; those of others have their own bits."""
    bits = picture.info.get("bit_depth", 8) if picture.format == "HEIF" else 8
    return f"{bits} bits to 8" if bits > 8 else None


def glance(data: bytes, alpha: str = "refuse", most: int = MAX_PIXELS) -> tuple[int, int, int, str | None]:
    """Height, width, channels (1 or 3) and lossy conversion, as `decode` would give them, from the header alone.

    Only where that cannot tell, the picture is decoded: whether an alpha channel hides anything, or numbers of 32 bits
    fit. Raises Undecodable for what is no picture or obviously cut short, and for what `decode` would refuse.
    """
    with _reading():
        picture = _open_still(data, alpha, most)
        pixels = (_has_alpha(picture) and alpha == "refuse") or picture.mode == "I"
        width, height = picture.size
        # Asking a PNG for its orientation decodes it, so only those that have one are asked.
        turned = picture.format != "PNG" or b"eXIf" in data
        if turned and picture.getexif().get(_ORIENTATION, 1) >= 5:
            width, height = height, width
    if pixels:
        found, lost = decode(data, alpha, most)
        return height, width, found.shape[-1], lost
    tail = data[-65536:]
    whole = {
        "PNG": b"IEND" in tail,
        "JPEG": b"\xff\xd9" in tail,
        "MPO": b"\xff\xd9" in tail,
        "HEIF": is_whole(data),
        "WEBP": len(data) >= struct.unpack("<I", data[4:8])[0] + 8,
    }
    if not whole.get(picture.format or "", True):
        raise Undecodable("is cut short (its end is missing)")
    lost = f"{picture.mode} to RGB" if picture.mode in _CONVERTED and not _has_alpha(picture) else _fewer_bits(picture)
    return height, width, 1 if picture.mode in _GRAY else 3, lost


def to_channels(pixels: np.ndarray, channels: int) -> tuple[np.ndarray, str | None]:
    """(H, W, C) with the channels asked for: gray is repeated; colour becomes Pillow's "L" (ITU-R BT.601 luma)."""
    found = pixels.shape[-1]
    if found == channels:
        return pixels, None
    if channels not in (1, 3):
        raise ValueError(f"to_channels: pictures have 1 or 3 channels, not {channels}")
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


def split_alpha(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(..., 1 to 4 channels) -> colour (..., 1 or 3) and opacity (...), None where there is none."""
    if pixels.shape[-1] in (1, 3):
        return pixels, None
    return pixels[..., :-1], pixels[..., -1]


def _flatten(pixels: np.ndarray, alpha: str) -> np.ndarray:
    """(H, W, C) without alpha, C = 1 or 3; with it where alpha is to be kept."""
    colour, opacity = split_alpha(pixels)
    if opacity is None or alpha == "keep":
        return pixels
    opacity = opacity[..., None]
    full = np.iinfo(pixels.dtype).max
    if alpha == "drop" or (opacity == full).all():
        return np.ascontiguousarray(colour)
    if alpha == "refuse":
        raise Transparent("has transparent pixels; say what is behind them with alpha: white, black or drop")
    ground = full if alpha == "white" else 0
    mixed = colour.astype(np.int64) * opacity + ground * (full - opacity.astype(np.int64))
    return ((mixed + full // 2) // full).astype(pixels.dtype)


def _decode_16_bit(data: bytes) -> np.ndarray:
    """A 16-bit colour or gray-and-alpha PNG -> (H, W, C) uint16."""
    Image.open(io.BytesIO(data), formats=("PNG",)).verify()  # checksums, which decoding does not look at

    def unpack(rawmode: str) -> np.ndarray:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as opened:
            picture: Any = opened
            picture.tile = [(*tile[:3], rawmode) for tile in picture.tile]
            return np.asarray(picture)

    kind = data[25]
    if kind == 4:
        # Gray and alpha are four bytes a pixel, as 8-bit RGBA is.
        both = unpack("RGBA")
        upper, lower = both[..., 0::2], both[..., 1::2]
    else:
        mode = {2: "RGB", 6: "RGBA"}[kind]
        upper, lower = unpack(f"{mode};16B"), unpack(f"{mode};16L")
    found = upper.astype(np.uint16)
    found <<= 8  # in place: such pictures are large
    found |= lower
    return found

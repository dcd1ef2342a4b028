"""HEIC and HEIF, as telephones write them, through pillow-heif (extra `heic`), which is imported for such files alone.

Told by what a file holds: it begins with a box `ftyp` that names its kinds. Those of AVIF are Pillow's own.
"""

from __future__ import annotations

import io
from importlib import import_module

from PIL import Image

__all__ = ["HEIF_SUFFIXES", "MissingLibrary", "is_heif", "is_whole", "open_heif"]

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_KINDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}


class MissingLibrary(ImportError):
    """pillow-heif is not installed; the message says how it is."""


def is_heif(data: bytes) -> bool:
    """Whether a file begins as HEIC and HEIF do.

    >>> is_heif(b"\\0\\0\\0\\x18ftypheic\\0\\0\\0\\0mif1heic"), is_heif(b"\\0\\0\\0\\x18ftypmif1\\0\\0\\0\\0avifmif1")
    (True, False)
    """
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), 256)
    kinds = {data[8:12], *(data[k : k + 4] for k in range(16, end, 4))}
    return bool(kinds & _KINDS) and not kinds & _AVIF


def is_whole(data: bytes) -> bool:
    """Whether the boxes of a file end where it ends."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:  # a long one, whose size follows
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0:  # the last one, to the end
            return True
        if size < 8:
            return False
        at += size
    return at == len(data)


def open_heif(data: bytes) -> Image.Image:
    """The file's main picture, turned as the file says (libheif does it); decoded when it is loaded, to 8 bits.

    Raises MissingLibrary, and what Pillow raises for damaged files.
    """
    try:
        plugin = import_module("pillow_heif.as_plugin")
    except ImportError:
        raise MissingLibrary("is HEIC, which is read by pillow-heif: pip install 'bootdiff[heic]'") from None
    picture: Image.Image = plugin.HeifImageFile(io.BytesIO(data))
    return picture

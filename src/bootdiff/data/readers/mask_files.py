"""Masks beside the files they belong to: how they are named, and what in them is observed.

    observed  =  light (above half of the range)  and  opaque (alpha of half and more, where there is an alpha channel)

so that a mask is read the same whether what it hides was painted black or erased.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from bootdiff.data.options import MAX_PIXELS
from bootdiff.data.readers.decode import IMAGE_SUFFIXES, Undecodable, decode, split_alpha, to_channels

__all__ = ["MASK_SUFFIX", "decode_mask", "is_opaque", "masks_beside", "masks_by_stem", "observed", "without_masks"]

MASK_SUFFIX = ".mask.png"
_MARKS = (".mask", "-masklabel")  # after the name of the file; the second one is OneTrainer's


def _stem_of(name: str) -> str | None:
    """The name, without its suffix, of the file whose mask this may be; None for other files."""
    stem, _, suffix = name.rpartition(".")
    mark = next((mark for mark in _MARKS if stem.lower().endswith(mark)), None)
    return stem[: -len(mark)] if mark is not None and f".{suffix.lower()}" in IMAGE_SUFFIXES else None


def masks_by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of masks by the names, without suffixes, of the files they belong to.

    >>> dict(masks_by_stem(["a.png", "a.mask.png", "b-masklabel.jpg"]))
    {'a': ['a.mask.png'], 'b': ['b-masklabel.jpg']}
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        stem = _stem_of(name)
        if stem is not None:
            found[stem].append(name)
    return found


def without_masks(names: Sequence[str]) -> list[str]:
    """The names of a listing, with forward slashes, that are no masks: a mask is named NAME.mask.png, or as one of a
    file or folder NAME that is there.

    >>> without_masks(["a.png", "a-masklabel.png", "old-masklabel.png", "gone.mask.png"])
    ['a.png', 'old-masklabel.png']
    """
    there = {name.rpartition(".")[0] for name in names}
    there |= {parent for name in names if (parent := name.rpartition("/")[0])}
    kept = []
    for name in names:
        stem = _stem_of(name)
        if stem is None or (stem not in there and not name.lower().endswith(MASK_SUFFIX)):
            kept.append(name)
    return kept


def masks_beside(stem: Path) -> list[Path]:
    """The masks there are of a file or folder, given by its path without a suffix."""
    named = (stem.with_name(f"{stem.name}{mark}{suffix}") for mark in _MARKS for suffix in IMAGE_SUFFIXES)
    return [path for path in named if path.exists()]


def is_opaque(opacity: np.ndarray, full: float) -> np.ndarray:
    """Where an alpha channel of 0 .. full counts as opaque: half and more."""
    return 2 * opacity.astype(np.float64) >= full


def observed(pixels: np.ndarray) -> np.ndarray:
    """A picture of a mask, (H, W, 1 to 4) uint8 or uint16 with alpha last where there is one -> (H, W) bool, True =
    observed."""
    colour, opacity = split_alpha(pixels)
    gray, full = to_channels(colour, 1)[0][..., 0], np.iinfo(pixels.dtype).max
    # Masks of zeros and ones look black to people but are common; else the middle of the range divides.
    seen = gray > (0 if int(gray.max()) == 1 else full // 2)
    return seen if opacity is None else seen & is_opaque(opacity, full)


def decode_mask(
    data: bytes, size: Sequence[int], of: str = "pictures", all_hidden: bool = False, most: int = MAX_PIXELS
) -> np.ndarray:
    """A file of a mask -> (H, W) bool, True = observed. size: (height, width) of the `of` it belongs to; most: pixels.

    Raises Undecodable for a damaged mask, one of a different size, and, unless `all_hidden`, one that hides everything.
    """
    pixels = decode(data, "keep", most)[0]
    if pixels.shape[:2] != tuple(size):
        found = f"{pixels.shape[0]} x {pixels.shape[1]}"
        raise Undecodable(f"is {found} pixels (height x width), the {of} are {size[0]} x {size[1]}")
    mask = observed(pixels)
    if not (all_hidden or mask.any()):
        raise Undecodable("hides every pixel; white means observed")
    return mask

"""Masks that a recipe names by the path of a picture or an array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bootdiff.data.options import MAX_PIXELS
from bootdiff.errors import BootdiffError

__all__ = ["read_mask"]


def read_mask(path: Path, where: str) -> Any:
    """Nested lists of 0 and 1: (H, W) of a picture, or an array's own axes."""
    import numpy as np

    from bootdiff.data.readers.decode import check_regular, decode
    from bootdiff.data.readers.mask_files import observed
    from bootdiff.data.readers.numpy_files import read_npy

    try:
        check_regular(path)
        if path.suffix == ".npy":
            seen = read_npy(path)
            if seen.size > MAX_PIXELS:
                raise ValueError(f"holds {seen.size:,} values, more than the {MAX_PIXELS:,} of the largest mask")
            seen = np.asarray(seen > 0)
        else:
            seen = observed(decode(path.read_bytes(), "keep")[0])
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BootdiffError(
            f"{where}: cannot read {path} ({reason}); give a picture, white where observed, or an .npy array of 0 and 1"
        ) from None
    if not 1 <= seen.ndim <= 4 or not seen.any():
        raise BootdiffError(
            f"{where}: {path} hides everything or is no mask (its shape is {seen.shape}); white or 1 means observed"
        )
    return seen.astype(int).tolist()

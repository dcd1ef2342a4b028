"""Files that say where in the full sample a view's files lie, for views whose denoiser is position-conditioned.

One row of whole numbers for each file, in their order: the offset of a clip, (top, left) of a crop, counted from 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bootdiff.data.readers.decode import check_regular
from bootdiff.data.readers.numpy_files import read_npy
from bootdiff.errors import BootdiffError

__all__ = ["read_offsets"]


def read_offsets(path: Path) -> Tensor:
    """Offsets from an .npy array or a text file with commas between the numbers, (n, k) int64.

    Raises BootdiffError where the file cannot be read or holds anything but whole numbers from 0 on.
    """
    try:
        if path.suffix == ".npy":
            rows = np.array(read_npy(path))
        else:
            check_regular(path)
            rows = np.loadtxt(path, delimiter=",", ndmin=2)
        rows = rows[:, None] if rows.ndim == 1 else rows
        with np.errstate(invalid="ignore"):
            whole = rows.astype(np.int64)
    except (OSError, ValueError) as error:
        raise BootdiffError(
            f"{path}: cannot be read ({error}); need an .npy array or a text file, a row of whole numbers for each file"
        ) from None
    if rows.ndim != 2 or (whole != rows).any() or (whole < 0).any():
        raise BootdiffError(f"{path}: offsets are whole numbers from 0 on, a row for each file; correct them")
    return torch.from_numpy(whole)

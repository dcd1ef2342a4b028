"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path

from bootdiff.errors import BootdiffError

__all__ = ["expanded"]


def expanded(path: str | os.PathLike[str]) -> Path:
    """`~` and `~user` replaced by the home that is meant.

    Raises BootdiffError where no home is known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BootdiffError(f"{path}: no such user, or one without a home; write the whole path") from None

"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path

from bootdiff.errors import BootdiffError

__all__ = ["expanded", "shown"]


def expanded(path: str | os.PathLike[str]) -> Path:
    """`~` and `~user` replaced by the home that is meant.

    Raises BootdiffError where no home is known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BootdiffError(f"{path}: no such user, or one without a home; write the whole path") from None


def shown(path: Path) -> Path:
    """A path as one would write it here: from the current folder, where it lies below that.

    >>> shown(Path.cwd() / "runs" / "mine").as_posix(), shown(Path("/elsewhere")).as_posix()
    ('runs/mine', '/elsewhere')
    """
    try:
        here = Path.cwd()
    except OSError:  # it is gone
        return path
    return path.relative_to(here) if path.is_relative_to(here) and path != here else path

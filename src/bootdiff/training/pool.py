"""Weights that are the same are stored once.

    <run>/stages/weights/<first 24 digits of the file's SHA-256>.safetensors

A snapshot, the final weights of a stage and a network of a finished model are hard links to the files of this pool, so
a network that four arms use takes its space once, and yet the folder of a stage or of a finished model is complete by
itself: copy it anywhere. Where a file system has no links they are copies.

So that a network's file has the same bytes wherever it is used, weights are named as the network itself names them:
what all names of a state dict begin with (`expert.net.` say) is left out, and put back by the reader, who has the
module.

The pool holds no file that is not used: a file is written where it belongs, and linked from there. So a kill leaves
nothing half done, and what nothing else links to any more (the snapshot was beaten, the stage deleted) is removed by
`sweep`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from bootdiff.training.files import atomic_write_bytes, link_file, tensor_bytes

__all__ = ["FILE", "WeightPool", "common_prefix", "file_name", "network_bytes"]

FILE = re.compile(r"[0-9a-f]{24}\.safetensors")
"""Names of weight files known by their content."""


def common_prefix(names: Iterable[str]) -> str:
    """What all dotted names begin with, up to a dot.

    >>> common_prefix(["expert.net.a.weight", "expert.net.b.weight"]), common_prefix(["a.weight", "b.weight"])
    ('expert.net.', '')
    """
    paths = [name.split(".")[:-1] for name in names]
    shared = []
    for parts in zip(*paths):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0] + ".")
    return "".join(shared)


def network_bytes(state: Mapping[str, Tensor]) -> bytes:
    """The file of a network's weights (any shapes, any device), names without their common prefix."""
    prefix = common_prefix(state)
    return tensor_bytes({name.removeprefix(prefix): tensor for name, tensor in state.items()})


def file_name(data: bytes) -> str:
    """The name of a weight file of this content."""
    return f"{hashlib.sha256(data).hexdigest()[:24]}.safetensors"


class WeightPool:
    """The pool in the folder ``path``, which is made by the first `store`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def store(self, data: bytes, path: Path) -> None:
        """Replace ``path`` by the weight file ``data``, shared with all that are the same.

        Raises BootdiffError when there is no room; the old file is then intact.
        """
        shared = self.path / file_name(data)
        # Compared as a whole: what was damaged since is written again, not handed on.
        if _holds(shared, data) and link_file(shared, path):
            return
        atomic_write_bytes(path, data)
        self.path.mkdir(parents=True, exist_ok=True)
        link_file(path, shared)

    def sweep(self) -> None:
        """Remove the files that nothing else links to."""
        if self.path.is_dir():
            for file in self.path.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if FILE.fullmatch(file.name) and file.stat().st_nlink == 1:
                        file.unlink()


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False

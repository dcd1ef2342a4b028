"""Files that survive being killed: atomic writes, tensors as safetensors, rows as JSON lines.

A file is either the old one or the new one, never a part: it is written to ``.name.tmp`` in the same directory, flushed
to the disk (fsync), and renamed over the old one (``os.replace`` is atomic), then the directory is flushed.
Tensors are stored as safetensors; what belongs to them as JSON text under the one metadata key ``bootdiff``. No pickle.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bootdiff.errors import BootdiffError

__all__ = [
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "copy_file",
    "is_full",
    "load_tensors",
    "no_room",
    "read_json",
    "read_metrics",
    "rows_and_lines",
    "save_tensors",
    "strict_json",
]

# No room: disk full, quota used up, file larger than the process may write.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# --- atomic files -----------------------------------------------------------------------------------------------------


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    # safetensors raises its own error and names the code of the operating system only in the text.
    return any(f"os error {code})" in str(error) for code in _FULL)


def no_room(path: Path, needed: int) -> BootdiffError:
    free = shutil.disk_usage(path.parent).free
    return BootdiffError(
        f"{path}: no room to write it: {needed / 2**20:.1f} MiB needed, {free / 2**20:.1f} MiB free there "
        f"(or a quota or file-size limit is reached). The previous version is intact. Free some space and run the same "
        f"command again, or choose another directory."
    )


def _atomic(path: Path, write: Callable[[Path], Any], needed: int) -> None:
    """Let ``write(tmp)`` write the new version of ``path``, about ``needed`` bytes, then put it in place."""
    # A fixed name: what a killed process left is overwritten by the next try, so no litter piles up.
    tmp = path.with_name(f".{path.name}.tmp")
    try:
        write(tmp)
        # safetensors writes files that only their owner may read; readable by whom the directory is, like any other.
        tmp.chmod(path.parent.stat().st_mode & 0o666)
        _fsync(tmp)
        os.replace(tmp, path)
        _fsync(path.parent)
    except BaseException as error:
        tmp.unlink(missing_ok=True)
        if is_full(error):
            raise no_room(path, needed) from error
        raise


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Replace ``path`` by ``data``. Raises BootdiffError when there is no room; the old file is then intact."""
    _atomic(Path(path), lambda tmp: tmp.write_bytes(data), len(data))


def atomic_write_text(path: str | Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8). Raises as :func:`atomic_write_bytes`."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: str | Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON (NaN becomes null). Raises as :func:`atomic_write_bytes`."""
    atomic_write_text(path, json.dumps(strict_json(value), indent=2, allow_nan=False) + "\n")


def copy_file(source: str | Path, path: str | Path) -> None:
    """Replace ``path`` by a copy of the file ``source``. Raises as :func:`atomic_write_bytes`."""
    _atomic(Path(path), lambda tmp: shutil.copyfile(source, tmp), Path(source).stat().st_size)


def read_json(path: str | Path) -> Any:
    """The JSON value in ``path``. Raises BootdiffError where it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BootdiffError(f"{path}: no such file; check the run directory that was given") from None
    except ValueError as error:
        raise BootdiffError(f"{path}: not JSON ({error}); restore it, or start a new run directory") from None


def strict_json(value: Any) -> Any:
    """``value`` with NaN and infinities, for which JSON has no spelling, as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): strict_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict_json(item) for item in value]
    return value


# --- tensors ----------------------------------------------------------------------------------------------------------


def save_tensors(path: str | Path, tensors: dict[str, Tensor], meta: dict[str, Any] | None = None) -> None:
    """Write named tensors (any shapes, any device) and JSON-able ``meta`` to one safetensors file, atomically.

    The same tensors and meta give the same bytes. Raises BootdiffError when there is no room, saying how much is needed
    and free; the old file is then intact and no temporary file is left.
    """
    from safetensors.torch import save_file

    path, seen, plain = Path(path), set(), {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory (tied weights); each name gets its own copy.
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        plain[name] = tensor
    text = json.dumps(meta or {}, sort_keys=True)
    needed = sum(tensor.nbytes for tensor in plain.values()) + len(text)
    _atomic(path, lambda tmp: save_file(plain, tmp, metadata={"bootdiff": text}), needed)


def load_tensors(path: str | Path, device: str | torch.device = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the meta that :func:`save_tensors` wrote. Raises BootdiffError: missing, or not such a file."""
    from safetensors import SafetensorError, safe_open

    device = torch.device(device)
    where = "cpu" if device.type == "cpu" else str(device)  # safetensors knows no "cpu:0", as several processes call it
    try:
        with safe_open(path, framework="pt", device=where) as file:
            meta = json.loads((file.metadata() or {}).get("bootdiff", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise BootdiffError(f"{path}: no such file; check the run directory, or train this stage first") from None
    except (SafetensorError, ValueError) as error:
        raise BootdiffError(
            f"{path}: not a readable safetensors file ({error}); restore it from a copy, or delete it and train again"
        ) from error


# --- metrics ----------------------------------------------------------------------------------------------------------


def read_metrics(path: str | Path, stage: str | None = None) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl`` (of one stage), in order; none where there is no file. A torn last line is left out.

    Raises BootdiffError with the line number where another line is not JSON.
    """
    return [row for row, _ in rows_and_lines(Path(path)) if stage is None or row.get("stage") == stage]


def rows_and_lines(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            return  # torn by a kill: only the last line can be
        try:
            yield json.loads(line), line
        except ValueError as error:
            raise BootdiffError(f"{path}, line {number}: not JSON ({error}); delete that line") from None

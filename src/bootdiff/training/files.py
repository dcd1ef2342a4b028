"""Files that survive being killed: atomic writes, tensors as safetensors, rows as JSON lines.

A file is either the old one or the new one, never a part: it is written to ``.name.bootdiff.tmp`` in the same
directory, flushed to the disk (fsync), and renamed over the old one (``os.replace`` is atomic), then the directory is
flushed.
Tensors are stored as safetensors; what belongs to them as JSON text under the one metadata key ``bootdiff``. No pickle.
What bootdiff reads again carries a checksum of its content, so that a flipped bit is found and the file named: records
and stamped JSON a SHA-256 of their value, tensors one of names, shapes, values and meta, rows of metrics a CRC-32 each.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
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
    "differences",
    "digest",
    "is_full",
    "is_temporary",
    "link_file",
    "load_tensors",
    "no_room",
    "placed",
    "read_about",
    "read_json",
    "read_metrics",
    "read_record",
    "row_line",
    "rows_and_lines",
    "save_tensors",
    "sha256_of",
    "stamped",
    "strict_json",
    "tensor_bytes",
    "unstamped",
    "write_record",
    "write_stamped",
]

_TEMPORARY = ".bootdiff.tmp"

# No room: disk full, quota used up, file larger than the process may write.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# --- atomic files -----------------------------------------------------------------------------------------------------


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that a killed process of ours left half written."""
    return name.startswith(".") and name.endswith(_TEMPORARY)


def is_full(error: BaseException) -> bool:
    """Whether an error of the operating system means that there is no room."""
    return isinstance(error, OSError) and error.errno in _FULL


def no_room(path: Path, needed: int) -> BootdiffError:
    free = shutil.disk_usage(path.parent).free
    need = f"{needed / 2**20:.1f} MiB needed, " if needed else ""
    return BootdiffError(
        f"{path}: no room to write it: {need}{free / 2**20:.1f} MiB free there (or a quota or file-size "
        f"limit is reached). The previous version is intact. Free some space and run the same command again, or choose "
        f"another directory."
    )


def _atomic(path: Path, write: Callable[[Path], Any], needed: int) -> None:
    """Let ``write(tmp)`` write the new version of ``path``, about ``needed`` bytes, then put it in place."""
    # A fixed name: what a killed process left is overwritten by the next try, so no litter piles up.
    tmp = path.with_name(f".{path.name}{_TEMPORARY}")
    try:
        write(tmp)
        _fsync(tmp)
        os.replace(tmp, path)
        _fsync(path.parent)
    except BaseException as error:
        tmp.unlink(missing_ok=True)
        if is_full(error):
            raise no_room(path, needed) from error
        if isinstance(error, OSError):
            raise placed(error, path) from None
        raise


def placed(error: OSError, path: Path) -> OSError:
    """The same error of the operating system, about `path`: not about a temporary file, nor about no file at all."""
    about = error.filename
    if error.errno is None or (about is not None and not is_temporary(Path(os.fsdecode(about)).name)):
        return error
    return OSError(error.errno, error.strerror, str(path))


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


def link_file(source: Path, path: Path) -> bool:
    """Replace ``path`` by a hard link to ``source``; False, and ``path`` as it was, where that is not possible: source
    gone, another file system, or one that has no links."""
    tmp = path.with_name(f".{path.name}{_TEMPORARY}")
    try:
        if path.exists() and path.samefile(source):
            return True  # renaming a link onto another one of the same file would leave both
        tmp.unlink(missing_ok=True)
        os.link(source, tmp)
        os.replace(tmp, path)
        _fsync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)
        return False
    return True


def read_json(path: str | Path, remedy: str = "restore it from a copy", *, stamp: bool = False) -> Any:
    """The JSON value in ``path``; of what :func:`write_stamped` wrote, without its checksum.

    ``stamp``: it must have one. Raises BootdiffError: missing, not JSON, or not what was written.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BootdiffError(f"{path}: no such file; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise BootdiffError(f"{path}: not JSON ({error}); {remedy}") from None
    return unstamped(found, path, remedy, stamp=stamp)


def strict_json(value: Any) -> Any:
    """``value`` with NaN and infinities, for which JSON has no spelling, as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): strict_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict_json(item) for item in value]
    return value


# --- records ----------------------------------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """24 hexadecimal digits of anything that JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:24]


def write_record(path: str | Path, value: Any, **about: Any) -> None:
    """Replace ``path`` by ``value`` (NaN becomes null) with its digest, which covers what it is ``about``, too (JSON).

    Raises as :func:`atomic_write_bytes`.
    """
    said = strict_json({"value": value, **about})
    atomic_write_json(path, said | {"digest": digest(said if about else said["value"])})


def read_record(path: str | Path, remedy: str = "restore it from a copy", **about: Any) -> Any:
    """What :func:`write_record` wrote. Raises BootdiffError: missing, no longer as it was written, or about something
    else than ``about``, as far as it says."""
    said = read_about(path, remedy)
    for key, wanted in about.items():
        if said.get(key, wanted) != wanted:
            raise BootdiffError(f"{path}: of another {key} ({said[key]}, not {wanted}): it was moved here; {remedy}")
    return said["value"]


def read_about(path: str | Path, remedy: str = "restore it from a copy") -> dict[str, Any]:
    """The value of a record and all that it is about. Raises as :func:`read_record`."""
    found = read_json(path, remedy)
    said = {key: value for key, value in found.items() if key != "digest"} if isinstance(found, dict) else {}
    if "value" not in said or found.get("digest") != digest(said if len(said) > 1 else said["value"]):
        raise BootdiffError(f"{path}: damaged, or changed by hand (its content does not match its digest); {remedy}")
    return said


_STAMP = "checksum"


def stamped(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object (NaN becomes null) with a checksum of its content."""
    plain = {key: item for key, item in strict_json(dict(value)).items() if key != _STAMP}
    return plain | {_STAMP: digest(plain)}


def unstamped(value: Any, path: str | Path, remedy: str = "restore it from a copy", *, stamp: bool = False) -> Any:
    """What :func:`stamped` was given. ``stamp``: it must have a checksum. BootdiffError: it is not what was written."""
    if not isinstance(value, dict) or _STAMP not in value:
        if stamp:
            raise BootdiffError(f"{path}: damaged (its checksum is lost); {remedy}")
        return value
    plain = {key: item for key, item in value.items() if key != _STAMP}
    if digest(plain) != value[_STAMP]:
        raise BootdiffError(f"{path}: damaged, or changed by hand (its content does not match its checksum); {remedy}")
    return plain


def write_stamped(path: str | Path, value: Mapping[str, Any]) -> None:
    """Replace ``path`` by ``value`` as JSON with a checksum. Raises as :func:`atomic_write_bytes`."""
    atomic_write_json(path, stamped(value))


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as {"a.b.0": leaf}."""
    if isinstance(value, dict) and value:
        items: Any = value.items()
    elif isinstance(value, list) and value:
        items = enumerate(value)
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat.update(_flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def differences(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """The leaves in which two values differ: (dotted path, old, new), "absent" where there is none."""
    there, now, absent = _flatten(old), _flatten(new), "absent"
    return [
        (key or "everything", there.get(key, absent), now.get(key, absent))
        for key in dict.fromkeys([*there, *now])
        if there.get(key, absent) != now.get(key, absent)
    ]


# --- tensors ----------------------------------------------------------------------------------------------------------


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
    """Write named tensors (any shapes, any device) and JSON-able ``meta`` to one safetensors file, atomically.

    The same tensors and meta give the same bytes. Raises BootdiffError when there is no room, saying how much is needed
    and free; the old file is then intact and no temporary file is left.
    """
    atomic_write_bytes(path, tensor_bytes(tensors, meta))


def tensor_bytes(tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> bytes:
    """The content of the file that :func:`save_tensors` writes."""
    from safetensors.torch import save

    seen, plain = set(), {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory (tied weights); each name gets its own copy.
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        plain[name] = tensor
    # One metadata key: safetensors writes several in an order that changes from call to call.
    said = json.loads(json.dumps(dict(meta or {})))
    text = json.dumps({"meta": said, "checksum": _checksum(plain, said)}, sort_keys=True)
    return save(plain, metadata={"bootdiff": text})


def load_tensors(
    path: str | Path,
    device: str | torch.device = "cpu",
    remedy: str = "restore it from a copy",
    sha256: str | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the meta that :func:`save_tensors` wrote.

    ``sha256``: of the file, where something beside it says so; otherwise its own checksum is taken.
    Raises BootdiffError, which ends with ``remedy``: missing, not readable, or not what was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = Path(path).read_bytes()
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        said = json.loads(header.get("__metadata__", {}).get("bootdiff", "null"))
    except FileNotFoundError:
        raise BootdiffError(f"{path}: no such file; {remedy}") from None
    except PermissionError:
        raise BootdiffError(f"{path}: cannot be read (no permission); make it readable") from None
    except (SafetensorError, ValueError, RecursionError) as error:
        raise BootdiffError(f"{path}: not a readable safetensors file ({error}); {remedy}") from error
    if not isinstance(said, dict) or not {"checksum", "sha256"} & said.keys():
        raise BootdiffError(f"{path}: damaged (its checksum is lost), or not written by bootdiff; {remedy}")
    meta = said.get("meta")
    if not isinstance(meta, dict):
        raise BootdiffError(f"{path}: damaged (what belongs to its tensors is lost); {remedy}")
    if sha256 is not None:
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BootdiffError(f"{path}: damaged, or another file (its SHA-256 is not what was written); {remedy}")
    # Files of earlier versions have a checksum of their tensors alone.
    elif said.get("checksum", said.get("sha256")) != _checksum(tensors, meta if "checksum" in said else None):
        raise BootdiffError(f"{path}: damaged (its content does not match its checksum); {remedy}")
    return {name: tensor.to(device) for name, tensor in tensors.items()}, meta


def _checksum(tensors: Mapping[str, Tensor], meta: Any) -> str:
    """SHA-256 of names, kinds, shapes, values and meta (None: left out); tensors are contiguous, on the CPU."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    if meta is not None:
        found.update(json.dumps(meta, sort_keys=True).encode())
    return found.hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- metrics ----------------------------------------------------------------------------------------------------------


_CRC = ', "crc": "'


def row_line(row: Mapping[str, Any]) -> bytes:
    """One line of a ``metrics.jsonl``: the row (NaN becomes null), and a CRC-32 of it."""
    body = json.dumps(strict_json(dict(row)), allow_nan=False)[:-1]
    return f'{body}{_CRC}{zlib.crc32(body.encode()):08x}"}}\n'.encode()


def read_metrics(path: str | Path, stage: str | None = None, *, crc: bool = False) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl`` (of one stage), in order; none where there is no file. A torn last line is left out.

    ``crc``: each must have its checksum. Raises BootdiffError with the line number where another line is no such row.
    """
    return [row for row, _ in rows_and_lines(Path(path), crc=crc) if stage is None or row["stage"] == stage]


def rows_and_lines(path: Path, *, crc: bool = False) -> Iterator[tuple[dict[str, Any], bytes]]:
    """As `read_metrics`, each row with its line."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            return  # torn by a kill: only the last line can be
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BootdiffError(f"{where}: not JSON ({error}); delete that line") from None
        if not isinstance(row, dict) or not isinstance(row.get("stage"), str) or type(row.get("step")) is not int:
            raise BootdiffError(f"{where}: not a row with `stage` and `step`; delete that line")
        body, _, tail = line.rpartition(_CRC.encode())
        found = row.pop("crc", None)
        if found is None and crc:
            raise BootdiffError(f"{where}: damaged (its checksum is lost); delete that line")
        if found is not None and tail != f'{zlib.crc32(body):08x}"}}\n'.encode():
            raise BootdiffError(f"{where}: damaged (it does not match its checksum); delete that line")
        if not isinstance(row.get("heldout", {}), dict):
            raise BootdiffError(f"{where}: its `heldout` is no table of losses; delete that line")
        yield row, line

"""Pictures in Parquet tables, as the Hugging Face Hub has them: a column of encoded pictures, others of labels.

Parquet is read in groups of rows, so that one row costs hundreds. The pictures are therefore copied once, as they are,
into a tar file in the user's cache folder, with the columns of whole numbers and words as .json beside each; from there
any row is one read at one place (`shards`). A table that changes is copied again.

`hf://owner/name` is such a data set on the Hub. Its Parquet files are downloaded once, into huggingface_hub's cache;
nothing is streamed, as the batch of a step may hold any row.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bootdiff import hub
from bootdiff.data.dataset import Dataset
from bootdiff.data.folders import list_files
from bootdiff.data.index import RECENT, VARIABLE, cache_folder, stamp_of
from bootdiff.data.labels import shortened
from bootdiff.data.options import HUB, ParquetOptions
from bootdiff.data.readers.decode import Undecodable, check_regular, too_large
from bootdiff.data.readers.reader import Reader
from bootdiff.data.readers.shards import Shards
from bootdiff.data.readers.stacks import library
from bootdiff.errors import BootdiffError

__all__ = ["ParquetReader", "holds_pictures", "part_of"]

_FORM = 1  # of the copies
_ROWS = 16  # that are in memory at once
_SUFFIXES = {b"\xff\xd8": ".jpg", b"RIFF": ".webp", b"BM": ".bmp"}
_SPLIT = re.compile(r"(.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")


def part_of(name: str) -> str:
    """The part (split) of a data set that a file belongs to, as the Hub names them; "" where there is only one.

    >>> part_of("data/train-00000-of-00002.parquet"), part_of("mnist/test/0000.parquet"), part_of("a.parquet")
    ('train', 'mnist/test', '')
    """
    *folders, file = name.split("/")
    split = _SPLIT.fullmatch(file.rpartition(".")[0])
    named = [*folders, *([split[1]] if split else [])]
    return "/".join(named[1:] if named[:1] == ["data"] else named)


def holds_pictures(path: Path) -> bool:
    """Whether a Parquet file, or the first one in a folder, has a column of encoded pictures. False without pyarrow."""
    try:
        from pyarrow import parquet

        first = path if path.is_file() else min(path.rglob("*.parquet"), default=None)
        if first is None or not first.is_file():
            return False
        return bool(_picture_columns(parquet.read_schema(first)))
    # pyarrow raises many kinds of errors for damaged files, which the reader of tables will name.
    except Exception:
        return False


def _picture_columns(schema: Any) -> list[str]:
    """The columns of records of bytes and a path, which is how `datasets` stores pictures."""
    from pyarrow import types

    return [
        field.name
        for field in schema
        if types.is_struct(field.type)
        and {"bytes", "path"} <= {field.type.field(i).name for i in range(field.type.num_fields)}
    ]


def _class_names(schema: Any, column: str) -> list[str] | None:
    """What the Hub's own remarks on a table call the numbers in a column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return names if isinstance(names, list) and names and all(isinstance(n, str) and n for n in names) else None


def _chosen(where: str, names: Sequence[str], key: str | None) -> list[str]:
    """The Parquet files of one part. Raises BootdiffError where it is not clear which, or there are none."""
    parts: dict[str, list[str]] = {}
    for name in names:
        if name.lower().endswith(".parquet"):
            parts.setdefault(part_of(name), []).append(name)
    if not parts:
        raise BootdiffError(f"{where}: holds no Parquet files{_elsewhere(where)}")
    if key is None and len(parts) == 1:
        return next(iter(parts.values()))
    if key not in parts:
        what = "holds several parts" if key is None else f"has no part {key!r}"
        named = sorted(part for part in parts if part)
        if not named:
            raise BootdiffError(f"{where}: has no parts, so no key {key!r}; remove the key")
        raise BootdiffError(f"{where}: {what}; say key: one of {shortened(named)}")
    return parts[key]


def _elsewhere(where: str) -> str:
    if not where.startswith(HUB) or "@" in where:
        return ""
    return f"; the Hub's own conversion of many data sets is read by {where}@refs/convert/parquet"


class _Rows:
    """The rows of Parquet files. Raises Undecodable and BootdiffError for those that cannot be used."""

    def __init__(self, where: str, files: Sequence[Path], column: str | None) -> None:
        self.where, self.files = where, files
        self._parquet = library("pyarrow.parquet", files[0], "data")
        self.schema = self._opened(files[0]).schema_arrow
        pictures = _picture_columns(self.schema)
        if column is None and len(pictures) != 1:
            raise BootdiffError(
                f"{where}: say which column holds the pictures, column: one of {shortened(self.schema.names)}"
            )
        self.column = pictures[0] if column is None else column
        if self.column not in self.schema.names:
            raise BootdiffError(f"{where}: has no column {column!r}; columns: {shortened(self.schema.names)}")
        self.others = [field.name for field in self.schema if field.name != self.column and _is_label(field.type)]
        self.names = {name: _class_names(self.schema, name) for name in self.others}

    def _opened(self, path: Path) -> Any:
        try:
            check_regular(path)
            # A buffer: pages are read one after the other, not a whole group of rows at once.
            return self._parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        except Undecodable as error:
            raise BootdiffError(f"{path}: {error}") from None
        except Exception as error:
            raise BootdiffError(f"{path}: cannot be read as Parquet ({_brief(error)}); copy it again") from None

    def __iter__(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """The encoded picture of each row, empty where it has none, and its labels."""
        for path in self.files:
            try:
                with self._opened(path) as file:
                    for rows in file.iter_batches(_ROWS, columns=[self.column, *self.others], use_threads=False):
                        for row in rows.to_pylist():
                            value = row.pop(self.column)
                            yield self._content(path, value), {name: self._label(path, name, row[name]) for name in row}
            except BootdiffError:
                raise
            except Exception as error:
                raise BootdiffError(f"{path}: cannot be read as Parquet ({_brief(error)}); copy it again") from None

    def _content(self, path: Path, value: Any) -> bytes:
        if isinstance(value, Mapping) and value.get("bytes") is None and value.get("path"):
            raise BootdiffError(
                f"{path}: names its pictures ({str(value['path'])[:80]}) and does not hold them; save it with them, "
                "or give the folder of the pictures"
            )
        content = value.get("bytes") if isinstance(value, Mapping) else value
        if not isinstance(content, bytes | None):
            raise BootdiffError(f"{path}: its column {self.column!r} holds no encoded pictures")
        return content or b""

    def _label(self, path: Path, column: str, value: Any) -> Any:
        """The name of a class, where the table has names for its numbers."""
        names = self.names[column]
        if names is None or not isinstance(value, int):
            return value
        if value >= len(names):
            raise BootdiffError(
                f"{path}: its column {column!r} holds {value}, and names for 0 to {len(names) - 1} alone"
            )
        return names[value] if value >= 0 else None


def _is_label(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind))


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _copy(rows: _Rows, target: Path, most: int) -> None:
    """All rows as a tar file, whole or not at all. Raises BootdiffError where it is too large, or cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, made = tempfile.mkstemp(".tmp", "copy-", target.parent)
        try:
            total = 0
            with open(handle, "wb") as file, tarfile.open(fileobj=file, mode="w") as packed:
                for k, (content, labels) in enumerate(rows):
                    total += len(content)
                    if total > most:
                        raise BootdiffError(f"{rows.where}: {too_large(total, most)}.")
                    suffix = next((s for start, s in _SUFFIXES.items() if content.startswith(start)), ".png")
                    for name, data in ((suffix, content), (".json", json.dumps(labels).encode())):
                        if name != ".json" or labels:
                            member = tarfile.TarInfo(f"{k:09d}{name}")
                            member.size = len(data)
                            packed.addfile(member, io.BytesIO(data))
            os.replace(made, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(made)
            raise
    except OSError as error:
        raise BootdiffError(
            f"{target.parent}: the pictures of {rows.where} cannot be copied there ({error.strerror}); make room, or "
            f"name another folder in {VARIABLE}"
        ) from None


class _Pictures(Shards):
    """The rows of a copy, named by their numbers."""

    def __init__(self, copy: Path, where: str, options: ParquetOptions) -> None:
        super().__init__(copy, options, shards={"row": copy}, where=where)

    def _full_name(self, name: str) -> str:
        return f"{self.where}: {name}"


class ParquetReader(Reader):
    """Parquet files of pictures, here or on the Hub."""

    what, kinds, options = "a table of pictures", ("image",), ParquetOptions

    def open(self, path: Path | str, options: ParquetOptions) -> Dataset:
        where = str(path)
        if isinstance(options.masks, str) and options.masks != "alpha":
            raise BootdiffError(f"{where}: has no array of masks; what a picture itself hides is masks: alpha")
        if options.masks is True:
            raise BootdiffError(f"{where}: has no masks beside its pictures; what they hide themselves is masks: alpha")
        if where.startswith(HUB):
            files = self._pulled(where, options)
        elif Path(path).is_file():
            files = [Path(path)]
        else:
            files = [Path(path) / name for name in _chosen(where, list_files(Path(path), "tables"), options.key)]
        rows = _Rows(where, files, options.column)
        copy = self._copied(rows, options.max_bytes)
        label = "label" if options.labels is True else options.labels
        if label and label not in rows.others:
            raise BootdiffError(
                f"{where}: has no column {label!r} of whole numbers or words for labels; it has "
                f"{shortened(rows.others) if rows.others else 'none'}"
            )
        classes = options.classes or (rows.names[str(label)] if label else None)
        return _Pictures(copy, where, replace(options, labels=label, classes=classes))

    def _pulled(self, where: str, options: ParquetOptions) -> list[Path]:
        """The files of a part of a data set on the Hub, downloaded where they are not in its cache."""
        said = re.fullmatch(r"(?:datasets/)?([^/@]+/[^/@]+)(?:@(.+))?", where.removeprefix(HUB))
        if said is None:
            raise BootdiffError(
                f"{where}: is no data set on the Hub; write {HUB}owner/name, or {HUB}owner/name@revision"
            )
        there = hub.dataset_files(said[1], revision=said[2])
        if there is None:
            folder = hub.pull_dataset(said[1], ["*.parquet"], revision=said[2], local_files_only=True)
            names = _chosen(where, list_files(folder, "tables"), options.key)
        else:
            names = _chosen(where, sorted(there), options.key)
            needed = sum(there[name] for name in names)
            if needed > options.max_bytes:
                raise BootdiffError(
                    f"{where}: has {needed:,} bytes to download, more than max_bytes ({options.max_bytes:,}): raise "
                    "that if it is meant. Twice as much is needed on the disk; nothing is streamed, as the batch of a "
                    "step may hold any row"
                )
            folder = hub.pull_dataset(said[1], names, revision=said[2])
        return [folder / name for name in names]

    def _copied(self, rows: _Rows, most: int) -> Path:
        """The copy of these files in the cache folder."""
        folder = cache_folder()
        if folder is None:
            raise BootdiffError(
                f"{rows.where}: pictures in Parquet tables are copied into a cache folder, and there is none "
                f"({VARIABLE} is empty); name one"
            )
        stamps = [stamp_of(path) or (0, 0) for path in rows.files]
        what = [[os.path.abspath(path) for path in rows.files], rows.column]
        table, state = (hashlib.sha256(repr(part).encode()).hexdigest()[:16] for part in (what, [_FORM, stamps]))
        target = folder / "parquet" / f"{table}-{state}.tar"
        made = stamp_of(target)
        # A table that was written just before it was copied may have been written again since, within one tick.
        if made is None or made[1] < max(changed for _, changed in stamps) + RECENT:
            needed = sum(size for size, _ in stamps)
            if needed > most:
                raise BootdiffError(f"{rows.where}: {too_large(needed, most).replace('unpacks to', 'has')}.")
            with contextlib.suppress(OSError):
                there = next(parent for parent in target.parents if parent.exists())
                free = shutil.disk_usage(there).free
                if free < needed:
                    raise BootdiffError(
                        f"{there}: has {free:,} bytes left, and a copy of {rows.where} takes about {needed:,}; make "
                        f"room, or name another folder in {VARIABLE}"
                    )
            _copy(rows, target, most)
            for other in target.parent.glob(f"{table}-*.tar"):  # of the table as it was before
                if other != target:
                    with contextlib.suppress(OSError):
                        other.unlink()
        return target

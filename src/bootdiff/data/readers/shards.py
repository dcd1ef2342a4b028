"""Pictures in tar files ("shards", as WebDataset has them), read at any place: batches stay functions of the step.

A sample is what shares a *key*, the name of a member up to the first point after its folders:

    00.tar    cats/0001.jpg  cats/0001.cls  cats/0001.json  cats/0001.mask.png  cats/0002.jpg ...

its picture (or an .npy of H x W or H x W x C levels of 8 or 16 bits), the number of its class (.cls) or a table of
fields (.json), and its mask. Where each member lies is found out once and kept in the user's cache (`data.index`);
then any sample is one read at one place. A shard that changes while it is in use is not read from any more.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bootdiff.data.dataset import Dataset
from bootdiff.data.folders import nothing_found, passed_over, unusable_files
from bootdiff.data.index import Index, Stamp, stamp_of
from bootdiff.data.labels import number_labels
from bootdiff.data.options import ShardOptions
from bootdiff.data.readers.decode import IMAGE_SUFFIXES, Undecodable, check_pixels, too_large
from bootdiff.data.readers.images import Images
from bootdiff.data.readers.mask_files import masks_by_stem, without_masks
from bootdiff.data.readers.numpy_files import array_in
from bootdiff.data.readers.reader import Reader
from bootdiff.data.readers.tar_files import Table, read_at, read_table
from bootdiff.errors import BootdiffError

__all__ = ["SHARD_SUFFIXES", "ShardReader", "Shards", "expand", "is_shards"]

SHARD_SUFFIXES = (".tar",)
_PACKED_SHARDS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_SAMPLES = (*IMAGE_SUFFIXES, ".npy")
_MOST_SHARDS = 100_000
_LONGEST_LABEL = 1 << 20  # bytes of a .cls or .json file


def is_shards(path: Path) -> bool:
    """Whether a path is that of tar files: one, or several by braces."""
    return path.name.lower().endswith((*SHARD_SUFFIXES, *_PACKED_SHARDS)) and ("{" in str(path) or path.is_file())


def expand(pattern: str) -> list[str]:
    """The paths that braces stand for, as a shell has them: numbers {00..19}, or a list {a,b}.

    >>> expand("s/{08..10}.tar")
    ['s/08.tar', 's/09.tar', 's/10.tar']
    >>> expand("{a,b}-{0..1}.tar")
    ['a-0.tar', 'a-1.tar', 'b-0.tar', 'b-1.tar']

    Raises BootdiffError for braces that are neither, and for too many paths.
    """
    choices: list[list[str]] = []
    count = 1
    for k, part in enumerate(re.split(r"\{([^{}]*)\}", pattern)):
        if k % 2 == 0:
            choices.append([part])
            continue
        numbers = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", part)
        if numbers is not None:
            first, last = map(int, numbers.groups())
            width = len(numbers[1]) if numbers[1].startswith("0") else 0
            count *= max(0, last - first + 1)
            found = [f"{n:0{width}d}" for n in range(first, last + 1)] if count <= _MOST_SHARDS else []
        else:
            found = part.split(",") if "," in part else []
            count *= len(found)
        if not 0 < count <= _MOST_SHARDS:
            why = (
                f"they are {count:,} shards, more than {_MOST_SHARDS:,}" if count else f"{{{part}}} stands for nothing"
            )
            raise BootdiffError(f"{pattern}: {why}; write {{00..19}} for numbers, {{a,b}} for a list")
        choices.append(found)
    return list(dict.fromkeys("".join(parts) for parts in itertools.product(*choices)))


def _key(name: str) -> str:
    """What the members of one sample share."""
    folders, _, file = name.rpartition("/")
    return f"{folders}/{file.partition('.')[0]}"


class Shards(Images):
    """The pictures in tar files.

    Args:
        pattern: the path of one, or of several by braces.
        options: as for `Images`; labels: True for the numbers in .cls files, or the name of a field of .json files.
            max_bytes: a longer member cannot be used.
        memory: as for `Images`.
        shards: the files by the names that messages give them; None: those that the pattern stands for.
        where: what messages call the data; None: the pattern.

    Raises BootdiffError for anything wrong with the files.
    """

    def __init__(
        self,
        pattern: Path,
        options: ShardOptions | None = None,
        *,
        memory: int = 512 << 20,
        shards: Mapping[str, Path] | None = None,
        where: str | None = None,
    ) -> None:
        o = options or ShardOptions()
        paths = [Path(path) for path in (expand(str(pattern)) if "{" in str(pattern) else [str(pattern)])]
        common = os.path.commonpath([path.parent for path in paths])
        self._shards = dict(shards or {path.relative_to(common).as_posix(): path for path in paths})
        self._stamps: dict[str, Stamp | None] = {}
        self._places: dict[str, tuple[str, int, int]] = {}  # shard, offset and size of each member
        self._longest, self._pattern = o.max_bytes, pattern
        super().__init__(common, o, memory=memory, where=where or str(pattern))

    # -- opening ------------------------------------------------------------------------------------------------

    def _root(self) -> Path:
        return self._pattern

    def _list(self) -> list[str]:
        tables = Index(self._pattern, "members of tar files", Table.is_plain)
        passed: Counter[str] = Counter()
        for shard, path in self._shards.items():
            stamp = self._stamps[shard] = stamp_of(path)
            known = tables.get(shard, stamp)
            try:
                table = read_table(path) if known is None else Table(*known)
            except Undecodable as error:
                self.problems.add(shard, str(error))
                continue
            if table.damage is None:
                tables.put(shard, stamp, table.plain())
            else:
                member, reason = table.damage
                self.problems.add(f"{shard}/{member}" if member else shard, reason)
            passed.update(table.passed)
            for name, offset, size in zip(table.names, table.offsets, table.sizes, strict=True):
                whole = f"{shard}/{name}"
                if whole in self._places:
                    self.problems.add(whole, "is there twice in its shard; write it again with different keys")
                self._places[whole] = shard, offset, size
        tables.save(self._shards)
        names = sorted(self._places)
        rest = without_masks(names)
        self._masks = masks_by_stem(names) if self._beside else {}
        found = [name for name in rest if name.lower().endswith(_SAMPLES)]
        if not found and self.problems:
            raise unusable_files(self.where, self.problems, len(self._shards), 0, "shards")
        if not found:
            raise nothing_found(self._pattern, rest, "pictures", "a picture", _SAMPLES)
        by_key: dict[str, str] = {}
        for name in found:
            if by_key.setdefault(_key(name), name) != name:
                self.problems.add(
                    name, f"has the key of {by_key[_key(name)].rpartition('/')[2]}, and a sample has one picture (keys "
                    "end at the first point); leave the others out"
                )  # fmt: skip
        self._passed_over = [
            *passed_over(n for n in rest if not n.lower().endswith((*_SAMPLES, ".cls"))),
            *(f"{n} {what} in tar files are not read" for what, n in sorted(passed.items())),
        ]
        return found

    def _stamp(self, name: str) -> Stamp | None:
        return self._stamps[self._places[name][0]]

    def _bytes(self, name: str) -> bytes:
        shard, offset, size = self._places[name]
        if size > self._longest:
            raise Undecodable(too_large(size, self._longest).replace("unpacks to", "has"))
        try:
            with open(self._shards[shard], "rb", buffering=0) as file:
                found = os.fstat(file.fileno())
                if (found.st_size, found.st_mtime_ns) != self._stamps[shard]:
                    raise Undecodable("lies in a shard that has changed since it was opened")
                return read_at(file, offset, size)
        except OSError as error:
            raise Undecodable(f"cannot be read ({error.strerror})") from None

    def _glance(self, data: bytes) -> tuple[int, int, int, str | None]:
        if data[:6] != np.lib.format.MAGIC_PREFIX:
            return super()._glance(data)
        height, width, channels = self._levels(data).shape
        return height, width, channels, None

    def _decode(self, data: bytes) -> tuple[np.ndarray, np.ndarray | None, str | None]:
        if data[:6] != np.lib.format.MAGIC_PREFIX:
            return super()._decode(data)
        return self._levels(data), None, None

    def _levels(self, data: bytes) -> np.ndarray:
        """The array (H, W, 1 or 3) in the bytes of a .npy file. Raises Undecodable."""
        pixels = array_in(io.BytesIO(data), len(data))
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or not pixels.size:
            raise Undecodable(f"has shape {pixels.shape}; a picture is H x W or H x W x 3")
        if pixels.dtype.str[1:] not in ("u1", "u2"):
            raise Undecodable(
                f"holds {pixels.dtype} values; in shards pictures are levels of uint8 or uint16, floats are read from "
                "a folder of .npy files, or from one array, with their range"
            )
        check_pixels(pixels.shape[1], pixels.shape[0], self._most)
        return pixels.astype(pixels.dtype.newbyteorder("="))

    # -- labels -------------------------------------------------------------------------------------------------

    def _number_classes(self, names: list[str], o: ShardOptions) -> tuple[dict[str, int], list[str]]:
        suffix = ".cls" if o.labels is True else ".json"
        beside = {_key(name): name for name in self._places if name.lower().endswith(suffix)}
        found: dict[str, Any] = dict.fromkeys(names)
        for name, source, data in self._contents([(name, beside.get(_key(name))) for name in names]):
            try:
                found[name] = _class_in(data) if o.labels is True else _field(data, str(o.labels))
            except Undecodable as error:
                self.problems.add(name, f"its {source.rpartition('/')[2]} {error}")
        for name in [name for name in names if name in self.problems.files]:
            del found[name]
        words = any(isinstance(value, str) for value in found.values())
        for name, value in found.items():
            if words and not isinstance(value, str | None):
                raise BootdiffError(f"{self.where}: some labels are words, that of {name} is {value}; use one of both")
        none: Any = "" if words else -1
        labels = np.asarray([none if value is None else value for value in found.values()])
        if not found:
            return {}, list(o.classes or [])
        kept = list(found)
        numbers, classes = number_labels(
            labels, len(kept), self.where, lambda i: kept[i], classes=o.classes, unlabelled=o.unlabelled
        )
        self._hash.update(repr(numbers.tolist()).encode())
        return {name: int(n) for name, n in zip(kept, numbers) if n >= 0}, classes

    def _contents(self, wanted: list[tuple[str, str | None]]) -> Iterator[tuple[str, str, bytes]]:
        """What lies beside samples: (sample, member, content); each shard is opened once."""
        by_shard: dict[str, list[tuple[str, str]]] = {}
        for name, source in wanted:
            if source is not None:
                by_shard.setdefault(self._places[source][0], []).append((name, source))
        for shard, pairs in by_shard.items():
            with self._shards[shard].open("rb") as file:
                for name, source in pairs:
                    _, offset, size = self._places[source]
                    yield name, source, read_at(file, offset, min(size, _LONGEST_LABEL))


def _class_in(data: bytes) -> int:
    """The number in a .cls file. Raises Undecodable."""
    try:
        text = data[:100].decode("ascii").strip()
        if not re.fullmatch(r"-?\d{1,9}", text):
            raise ValueError
        return int(text)
    except ValueError:
        raise Undecodable(f"holds no class number ({data[:20]!r})") from None


def _field(data: bytes, name: str) -> int | str | None:
    """A field of a .json file; None where it has none. Raises Undecodable."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise Undecodable("is no JSON, or longer than a megabyte") from None
    if not isinstance(fields, dict):
        raise Undecodable("is no table of fields")
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | str | None):
        raise Undecodable(f"has a field {name!r} that is neither a whole number nor a word")
    if isinstance(value, int) and not -1 <= value < 2**31:
        raise Undecodable(f"has a field {name!r} of {value}; number the classes 0, 1, 2, ...")
    return value


class ShardReader(Reader):
    """Tar files of pictures."""

    what, kinds, options = "a row of tar files", ("image",), ShardOptions
    suffixes = SHARD_SUFFIXES

    def open(self, path: Path, options: ShardOptions) -> Dataset:
        if path.name.lower().endswith(_PACKED_SHARDS):
            raise BootdiffError(
                f"{path}: is packed as a whole, so that nothing can be read from the middle of it; unpack the shards "
                "once (gunzip NAME.tar.gz leaves NAME.tar), and give NAME.tar"
            )
        if isinstance(options.masks, str) and options.masks != "alpha":
            raise BootdiffError(f"{path}: has no array of masks, they lie beside the pictures; write masks: true")
        return Shards(path, options)

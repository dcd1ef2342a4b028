"""How long until the first batch, how much memory, how many batches per second?  Files of real numbers and sizes.

    python -m experiments.scripts.throughput FOLDER [--count 40000] [--bytes 2000000000] [--shards 20] [--workers 0]
        [--batches 200] [--rounds 5] [--seed 0] [--out experiments/results/speed/data.json]

FOLDER takes the data, made of the seed where they are not there yet: COUNT PNG files of 64 x 64 in sub-folders, the
same files in SHARDS tar files, and one .npy file of BYTES. Each is measured in a process of its own:

    first      opening and the first batch, the files never seen before (an empty cache folder)
    again      the same in a second process: what was learned of the files is in the cache folder
    skip       `again`, with on_error: skip
    decoding   batches per second while pictures are decoded, bootdiff's and those of a bare torch DataLoader over the
               same files (Pillow, or a mapped array; shuffled; same batch, same workers), in turns, so that the
               machine's speed drops out of the ratio; median and quartiles over the rounds
    kept       the same, once all decoded pictures are in memory (those of up to 512 MiB)

Memory is the most that a process held at any time, less what it held after its imports; pages of a mapped file, which
the system takes back as it likes, do not count. The system's own cache of files is warm for all.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor

from bootdiff.data import Batches, open_dataset
from bootdiff.data.readers.tar_files import read_table
from bootdiff.training.files import atomic_write_json
from experiments.scripts.results import ROOT, write_result
from experiments.scripts.speed import summary

__all__ = ["WHAT", "Bare", "batches_per_second", "main", "make", "parser", "paths", "table"]

BATCH, SIDE = 64, 64
WHAT = ("pictures", "array", "shards")


def paths(args: argparse.Namespace) -> dict[str, Path]:
    """Where each kind of data lies."""
    folder = Path(args.folder)
    last = args.shards - 1
    return {
        "pictures": folder / "pictures",
        "array": folder / "array.npy",
        "shards": folder / "shards" / f"{{{0:0{len(str(last))}d}..{last}}}.tar",
    }


def encoded(generator: np.random.Generator) -> bytes:
    """A PNG of smooth colours under a little noise: about as long as a photograph's of this size."""
    smooth = Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((SIDE, SIDE), 2)
    noisy = np.asarray(smooth).astype(np.int16) + generator.integers(-4, 5, (SIDE, SIDE, 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def make(args: argparse.Namespace) -> None:
    """The data, unless they are there."""
    about = {"count": args.count, "bytes": args.bytes, "shards": args.shards, "seed": args.seed}
    done = Path(args.folder) / "made.json"
    if done.is_file() and json.loads(done.read_text()) == about:
        return
    where = paths(args)
    each = -(-args.count // args.shards)
    where["shards"].parent.mkdir(parents=True, exist_ok=True)
    names = [where["shards"].parent / f"{k:0{len(str(args.shards - 1))}d}.tar" for k in range(args.shards)]
    for k, name in enumerate(names):
        with tarfile.open(name, "w") as shard:
            for i in range(k * each, min((k + 1) * each, args.count)):
                data = encoded(np.random.default_rng([args.seed, i]))
                path = where["pictures"] / f"{i % 10}" / f"{i:06d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                member = tarfile.TarInfo(f"{i:06d}.png")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    n = args.bytes // (SIDE * SIDE * 3)
    array = np.lib.format.open_memmap(where["array"], "w+", np.uint8, (n, SIDE, SIDE, 3))
    generator = np.random.default_rng([args.seed, args.count])
    for start in range(0, n, 4096):
        part = array[start : start + 4096]
        part[:] = generator.integers(0, 256, part.shape, dtype=np.uint8)
    array.flush()
    atomic_write_json(done, about)


class Bare(torch.utils.data.Dataset[Tensor]):
    """What one writes without a library: files of a folder, members of shards by their places, or a mapped array."""

    def __init__(self, what: str, path: Path) -> None:
        self.what = what
        self.array = np.load(path, mmap_mode="r") if what == "array" else None
        self.files = sorted(path.rglob("*.png")) if what == "pictures" else []
        self.places: list[tuple[Path, int, int]] = []
        for shard in sorted(path.parent.glob("*.tar")) if what == "shards" else ():
            found = read_table(shard)
            self.places += [(shard, a, n) for a, n in zip(found.offsets, found.sizes, strict=True)]

    def __len__(self) -> int:
        return len(self.files or self.places) if self.array is None else len(self.array)

    def __getitem__(self, i: int) -> Tensor:
        if self.array is not None:
            pixels = np.array(self.array[i])
        elif self.files:
            with Image.open(self.files[i]) as picture:
                pixels = np.array(picture.convert("RGB"))
        else:
            path, start, size = self.places[i]
            with path.open("rb") as shard:
                shard.seek(start)
                with Image.open(io.BytesIO(shard.read(size))) as picture:
                    pixels = np.array(picture.convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(127.5).sub_(1)


class Peak:
    """The most memory of its own that this process holds within the block, in MiB above that at its beginning."""

    def __enter__(self) -> Peak:
        self._over, self.mib = threading.Event(), 0.0
        self._before = self._held()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def _held(self) -> float:
        found = psutil.Process().memory_info()
        return (found.rss - getattr(found, "shared", 0)) / 2**20

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.mib = max(self.mib, self._held() - self._before)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()
        self.mib = max(self.mib, self._held() - self._before)


def first_batch(path: str, on_error: str) -> dict[str, float]:
    """One process: seconds to the first batch, and memory in MiB."""
    with Peak() as peak:
        start, cpu = time.perf_counter(), time.process_time()
        source = open_dataset(path, kind="image", on_error=on_error)
        batch = next(Batches(source, 1.0, BATCH).stream())
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert tuple(batch["x"].shape) == (BATCH, 3, SIDE, SIDE)
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak.mib, "samples": len(source)}


def batches_per_second(what: str, path: str, args: argparse.Namespace) -> dict[str, Any]:
    """One process: batches per second of both, in turns."""
    source = open_dataset(path, kind="image", on_error="refuse")
    ours: Iterator[Any] = Batches(source, 1.0, BATCH, args.seed, workers=args.workers).stream()
    loader = torch.utils.data.DataLoader(
        Bare(what, Path(path)), BATCH, shuffle=True, num_workers=args.workers, drop_last=True
    )

    def epochs() -> Iterator[Any]:
        while True:
            yield from loader

    streams = {"bootdiff": ours, "bare": epochs()}
    rates: dict[str, list[float]] = {name: [] for name in streams}
    for stream in streams.values():
        next(stream)  # workers start
    # Less than a pass over the data, so that every picture is decoded for the first time.
    each = max(1, min(args.batches // args.rounds, (len(source) // BATCH - 1) // args.rounds))
    for k in range(args.rounds):
        for name in list(streams) if k % 2 else list(streams)[::-1]:
            start = time.perf_counter()
            for _ in range(each):
                next(streams[name])
            rates[name].append(each / (time.perf_counter() - start))
    found: dict[str, Any] = {
        name: summary(values) | {"rounds": values} for name, values in rates.items()
    } | {"of_bare": summary([a / b for a, b in zip(rates["bootdiff"], rates["bare"])])}  # fmt: skip
    if args.workers == 0 and what != "array":
        for i in range(len(source)):
            source[i]
        kept = []
        for _ in range(args.rounds):
            start = time.perf_counter()
            for _ in range(each):
                next(ours)
            kept.append(each / (time.perf_counter() - start))
        found["kept"] = summary(kept)
    return found


def apart(args: argparse.Namespace, cache: str, *job: str) -> Any:
    """What a process of its own finds out."""
    call = [sys.executable, "-m", "experiments.scripts.throughput", str(args.folder), "--job", *job]
    for name in ("batches", "rounds", "seed", "workers"):
        call += [f"--{name}", str(getattr(args, name))]
    environment = {**os.environ, "BOOTDIFF_CACHE": cache, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(result: dict[str, Any]) -> str:
    """The result as Markdown.

    >>> one = {"seconds": 2.0, "cpu_seconds": 1.5, "peak_mib": 100.4, "samples": 10}
    >>> speed = {"of_bare": {"median": 0.95}, "bare": {"median": 40.2}, "bootdiff": {"median": 38.4}}
    >>> print(table({"about": {"count": 10, "bytes": 0, "shards": 2}, "rows": {
    ...     "pictures": {"first": one, "again": one, "skip": one, "decoding": speed}}}).splitlines()[-1])
    | 10 PNG files | 1.5 s | 1.5 s | 1.5 s | 38 | 0.95 | - | 100 MiB |
    """
    about = result["about"]
    names = {
        "pictures": f"{about['count']:,} PNG files",
        "shards": f"{about['shards']} shards of {-(-about['count'] // about['shards']):,} of them each",
        "array": f"one .npy of {about['bytes'] / 1e9:.1f} GB",
    }
    head = [
        "64 x 64, in colour", "first batch, never opened before", "opened again", "opened again, `on_error: skip`",
        "batches of 64 per second", "of a bare `DataLoader`'s", "per second, decoded before", "memory",
    ]  # fmt: skip
    lines = [_row(head), _row(["---"] * len(head))]
    for what, found in result["rows"].items():
        speed = found["decoding"]
        lines.append(
            _row(
                [
                    names[what],
                    *(f"{found[name]['cpu_seconds']:.1f} s" for name in ("first", "again", "skip")),
                    f"{speed['bootdiff']['median']:.0f}",
                    f"{speed['of_bare']['median']:.2f}",
                    f"{speed['kept']['median']:.0f}" if "kept" in speed else "-",
                    f"{found['first']['peak_mib']:,.0f} MiB",
                ]
            )
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Of the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=40_000)
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--make", action="store_true", help="make the data, and measure nothing")
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the data, measure, print the table and write the result."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser().parse_args(given)
    torch.set_num_threads(1)
    if args.job:
        kind, *rest = args.job
        found = batches_per_second(rest[0], rest[1], args) if kind == "speed" else first_batch(rest[0], rest[1])
        print(json.dumps(found))
        return
    make(args)
    if args.make:
        return
    rows: dict[str, Any] = {}
    for what in WHAT:
        path = str(paths(args)[what])
        with tempfile.TemporaryDirectory() as cache:
            rows[what] = {
                "first": apart(args, cache, "open", path, "refuse"),
                "again": apart(args, cache, "open", path, "refuse"),
                "skip": apart(args, cache, "open", path, "skip"),
                "decoding": apart(args, cache, "speed", what, path),
            }
    about = {"count": args.count, "bytes": args.bytes, "shards": args.shards, "seed": args.seed, "batch": BATCH}
    result = {"about": about, "workers": args.workers, "rows": rows, "threads": 1}
    print(table(result))
    # The folder is the caller's own affair.
    shown = ["FOLDER" if word == str(args.folder) else word for word in given]
    write_result(args.out, "throughput", shown, result)


if __name__ == "__main__":
    main()

"""The benchmark in nine minutes of a borrowed GPU: bare, without a network, with torch but without diffusers.

    python -m experiments.scripts.gpu_short prepare DATA [--into build/gpu-short]    where there is a network
    python experiments/scripts/gpu_short.py run --out OUT [--minutes 9] [--scale 1]  on the machine with the GPU

`prepare` puts what that machine lacks into one folder, to be copied along: the wheels of `WHEELS` for its Python, in
the versions of constraints.txt, and DATA/cats64.npz.  `run` imports nothing but the standard library: it unpacks the
wheels beside the installed packages and calls

    bootdiff bench gpu-short      full-only, bootdiff, the best rival and the oracle at equal training FLOPs, in this
                                  order, each result written as it comes (loss, FID, KID; no checkpoints)
    experiments.scripts.speed     in what is left of the time: a training step against diffusers' example

What is cut off by the end of the time has no result, and nothing is lost of what has.  `--scale` is the share of the
FLOPs and images that is used: 0.001 for a rehearsal on a CPU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ARMS", "WHEELS", "main"]

ROOT = Path(__file__).parents[2]
WHEELS = (
    "diffusers", "pydantic", "pydantic-core", "typing-extensions", "typing-inspection", "annotated-types",
    "importlib-metadata", "lazy-importer", "typer", "annotated-doc", "shellingham", "requests", "certifi", "idna",
    "charset-normalizer", "urllib3", "regex",
)  # fmt: skip
"""What bootdiff needs and such a machine lacks."""
ARMS = ("full_only", "bootdiff", "label_mix", "oracle")
"""In the order of their importance."""
_RESERVE = 20  # seconds that are left for writing and leaving


def prepare(data: Path, into: Path, python: str) -> None:
    """Fetch the wheels and copy the data."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    platforms = [part for name in ("manylinux2014_x86_64", "manylinux_2_28_x86_64") for part in ("--platform", name)]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
        "--python-version", python, *platforms, "--constraint", str(ROOT / "constraints.txt"), "--dest", str(into),
        *WHEELS,
    ]  # fmt: skip
    subprocess.run(command, check=True)
    shutil.copyfile(data / "cats64.npz", into / "cats64.npz")
    size = sum(path.stat().st_size for path in into.iterdir()) / 2**20
    print(f"{into}: {len(list(into.glob('*.whl')))} wheels and the data, {size:.1f} MiB")


def run(
    out: Path, prepared: Path, minutes: float, scale: float, samples: int, speed: bool, arms: Sequence[str] = ARMS
) -> int:
    """Unpack, train, measure; returns how many results were written."""
    end = time.monotonic() + 60 * minutes - _RESERVE
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-short-") as folder:
        for wheel in prepared.glob("*.whl"):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(Path(folder) / "packages")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), str(Path(folder) / "packages")]),
            "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip

        def call(*command: str) -> None:
            left = end - time.monotonic()
            if left <= 0:
                print(f"no time left for: {' '.join(command)}")
                return
            try:
                subprocess.run(
                    [sys.executable, *command], env=environment, cwd=ROOT, check=False, timeout=left + _RESERVE / 2
                )
            except subprocess.TimeoutExpired:
                print(f"cut off: {' '.join(command)}")

        call(
            "-m", "experiments.scripts.prepare", "--data", str(prepared.resolve()), "--out", f"{folder}/data",
            "--only", "cats64",
        )  # fmt: skip
        for arm in arms:
            left = (end - time.monotonic()) / 60
            call(
                "-m", "bootdiff", "bench", "gpu-short", "--arms", arm, "--views", "three", "--n-full", "2",
                "--seeds", "0", "--samples", str(samples), "--scale", str(scale), "--budget", f"{max(left, 0):.2f}",
                "--data", f"{folder}/data", "--out", str(out.resolve()), "--runs", f"{folder}/runs",
            )  # fmt: skip
        if speed:
            call("-m", "experiments.scripts.speed", "loop", "--out", str(out.resolve() / "speed-loop.json"))
    features = out / "gpu-short" / "features.safetensors"  # made again in a minute, and large
    features.unlink(missing_ok=True)
    return len(list((out / "gpu-short").rglob("*.json")))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare or run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    first = verbs.add_parser("prepare")
    first.add_argument("data", type=Path)
    first.add_argument("--into", type=Path, default=ROOT / "build" / "gpu-short")
    first.add_argument("--python", default="3.12", help="of the machine with the GPU")
    second = verbs.add_parser("run")
    second.add_argument("--out", type=Path, required=True)
    second.add_argument("--prepared", type=Path, default=ROOT / "build" / "gpu-short")
    second.add_argument("--minutes", type=float, default=9.0)
    second.add_argument("--scale", type=float, default=1.0)
    second.add_argument("--samples", type=int, default=1000)
    second.add_argument("--arms", default=" ".join(ARMS))
    second.add_argument("--no-speed", action="store_true")
    given = parser.parse_args(arguments)
    if given.verb == "prepare":
        prepare(given.data, given.into, given.python)
    else:
        found = run(
            given.out, given.prepared, given.minutes, given.scale, given.samples, not given.no_speed, given.arms.split()
        )
        print(f"{found} result(s) in {given.out}")


if __name__ == "__main__":
    main()

"""Are long videos right in the long run, when only clips were plentiful?  Digits that bounce.

    python -m experiments.scripts.prepare --data DIR --only moving24
    bootdiff arms experiments/recipes/moving24.yaml --out runs/moving24/seed-0
    python -m experiments.scripts.moving measure runs/moving24/seed-0
    python -m experiments.scripts.moving continue runs/moving24/seed-0
    python -m experiments.scripts.moving picture runs/moving24/seed-0

`measure` draws videos of the run's arms, and measures them and the test videos by
`experiments.benchmark.moving_digits`; as a contrast also real ones that are cut in the middle and go on as another does
("cut"). It writes experiments/results/moving24/measures-seed-S.json and prints a table. `continue` gives the first
frames of test videos and has the rest drawn: by each arm, by holding the last frame, and by moving it on as the first
ones moved, straight ahead; continued-seed-S.json. `picture` draws docs/images/moving.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from bootdiff.cli.compare import Assessment, draw
from bootdiff.cli.console import Console
from bootdiff.cli.session import device_of, load_arm, read_run, saved_arms
from bootdiff.method.plan import ARMS
from bootdiff.method.problem import in_memory
from bootdiff.recipe.build import build_problem
from bootdiff.restoration import restore
from bootdiff.views import FrameWindow
from experiments.benchmark.moving_digits import centre, likeness, measures
from experiments.scripts.results import RESULTS, ROOT, write_result

__all__ = ["main", "table"]

_SHOWN = 3  # videos of each arm in the picture


def opened(folder: Path) -> Assessment:
    """A run's arms and data."""
    _, recipe = read_run(folder)
    device, problem = device_of(recipe), build_problem(recipe)
    denoisers = {arm: load_arm(folder, arm, device)[1] for arm in ARMS if arm in saved_arms(folder)}
    return Assessment(recipe, problem, folder, denoisers, {}, Console(), device)


def frames(x: torch.Tensor) -> np.ndarray:
    """Samples (n, 1, T, H, W) in [-1, 1] as (n, T, H, W) in [0, 1]."""
    return np.asarray((x[:, 0].double().cpu() / 2 + 0.5).clamp(0, 1))


def measure(folder: Path, count: int, each: int) -> dict[str, Any]:
    """{"seed", "count", "found": {videos: `moving_digits.measures` and, where `each` is one, "like real"}}: of test
    videos of `each` digits, cut ones, and of each arm."""
    assessment = opened(folder)
    real = frames(in_memory(assessment.reference).x)[:count]
    cut = np.concatenate([real[:, : real.shape[1] // 2], np.roll(real, 1, 0)[:, real.shape[1] // 2 :]], axis=1)
    drawn = {arm: frames(draw(assessment, arm, count)) for arm in assessment.denoisers}
    others = frames(in_memory(assessment.reference).x)[count:]  # real ones are held against others, too
    found = {}
    for name, x in {"real": real, "cut": cut, **drawn}.items():
        found[name] = measures(x, each=each) | ({"like real": likeness(x, others)} if len(others) and each == 1 else {})
    return {"seed": assessment.recipe.seed, "count": count, "found": found}


def straight_on(given: np.ndarray, frames: int) -> np.ndarray:
    """Videos (n, T, H, W) made longer: the last frame, moved on as the centre of brightness moved in them."""
    made = []
    for video in given:
        where = np.stack([centre(frame) for frame in video])
        speed = np.polyfit(np.arange(len(where)), where, 1)[0]
        more = [ndimage.shift(video[-1], k * speed, order=1) for k in range(1, frames - len(video) + 1)]
        made.append(np.concatenate([video, np.stack(more)]))
    return np.stack(made).clip(0, 1)


def go_on(folder: Path, count: int, each: int, shown: int, answers: int, steps: int) -> dict[str, Any]:
    """{"seed", "count", "given", "answers", "found"}: of test videos that were made longer from their first frames.

    found: for each way the measures of the videos, and "psnr" in dB of the frames that were not given; of an arm of one
    answer, and as "mean" the psnr of the mean of all.
    """
    assessment = opened(folder)
    x = in_memory(assessment.reference).x[:count].cpu()
    real, view = frames(x), FrameWindow(shown, offset=0)
    held = np.concatenate([real[:, :shown], real[:, shown - 1 : shown].repeat(real.shape[1] - shown, 1)], 1)
    ways: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
        "real": (real, None), "last frame held": (held, None),
        "straight on": (straight_on(real[:, :shown], real.shape[1]), None),
    }  # fmt: skip
    for arm, denoiser in assessment.denoisers.items():
        drawn = restore(denoiser, x[:, :, :shown], view, samples=answers, method="ddnm", steps=steps, bounds=(-1, 1))
        ways[arm] = frames(drawn[:, 0]), frames(drawn.mean(1))
    found = {}
    for name, (video, mean) in ways.items():
        found[name] = measures(video, each=each) | {"psnr": _psnr(video, real, shown)}
        found[name] |= {} if mean is None else {"mean": _psnr(mean, real, shown)}
    return {"seed": assessment.recipe.seed, "count": count, "given": shown, "answers": answers, "found": found}


def _psnr(video: np.ndarray, real: np.ndarray, shown: int) -> dict[str, float]:
    """Mean and standard error over videos, dB of the frames from `shown` on."""
    square = np.square(video[:, shown:] - real[:, shown:]).reshape(len(video), -1).mean(1)
    each = -10 * np.log10(np.maximum(square, 1e-10))
    return {"mean": float(each.mean()), "stderr": float(each.std(ddof=1) / np.sqrt(len(each))), "count": len(each)}


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Markdown."""
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    units = {
        "alone": "apart",
        "count": "no thing too many or missing",
        "off course": "off course, pixels",
        "psnr": "PSNR, dB",
    }
    units |= {"mean": "PSNR of the mean"}
    lines = [
        "| videos | " + " | ".join(units.get(name, name) for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for videos, row in found.items():
        cells = [f"{row[name]['mean']:.3f} ± {row[name]['stderr']:.3f}" if name in row else "" for name in names]
        lines.append(f"| {videos.replace('_', '-')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(folder: Path, out: Path) -> None:
    """Videos of each arm beside real ones, a row each, every frame."""
    from bootdiff.cli.report.images import grid, panels, save_png, to_pil

    assessment = opened(folder)
    shown = {"real": in_memory(assessment.reference).x[:_SHOWN]}
    shown |= {arm.replace("_", "-"): draw(assessment, arm, _SHOWN) for arm in assessment.denoisers}
    sheets = {
        name: grid([to_pil(x[i, :, t]) for i in range(len(x)) for t in range(x.shape[2])], x.shape[2], 48)
        for name, x in shown.items()
    }
    save_png(grid([panels({name: sheet}) for name, sheet in sheets.items()], 1, side=1, gap=0), out)


def main(arguments: Sequence[str] | None = None) -> None:
    """One of the verbs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    what_for = {"measure": "are the videos right?", "continue": "make videos longer", "picture": "draw some"}
    for name, what in what_for.items():
        verb = verbs.add_parser(name, help=what)
        verb.add_argument("run", type=Path, help="run of experiments/recipes/moving24.yaml")
        if name != "picture":
            verb.add_argument("--count", type=int, default=200, help="videos of each arm")
            verb.add_argument("--digits", type=int, choices=(1, 2), default=1, help="in each video (moving32.npz: 2)")
            verb.add_argument("--out", type=Path, default=RESULTS / "moving24")
            if name == "continue":
                verb.add_argument("--given", type=int, default=5, help="first frames that are given")
                verb.add_argument("--answers", type=int, default=5, help="of each arm to each video")
                verb.add_argument("--steps", type=int, default=40, help="noise levels")
        else:
            verb.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "moving.png")
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(given)
    if args.verb == "picture":
        picture(args.run, args.out)
        return
    if args.verb == "measure":
        found = measure(args.run, args.count, args.digits)
    else:
        found = go_on(args.run, args.count, args.digits, args.given, args.answers, args.steps)
    name = "measures" if args.verb == "measure" else "continued"
    path = args.out / f"{name}-seed-{found['seed']}.json"
    write_result(path, "moving", given, found)
    print(f"{path}\n\n{table(found['found'])}")


if __name__ == "__main__":
    main()

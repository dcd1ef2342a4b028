"""The road camera's videos as a station broadcasts them, and whether generated videos show logo and captions.

    python -m experiments.scripts.prepare --data DIR
    python -m experiments.scripts.overlay burn
    bootdiff masks experiments/data/traffic/broadcast.npz --key videos --grow 1 --out experiments/data/traffic/logo
    bootdiff arms experiments/recipes/traffic.yaml --seed 0 --out runs/traffic/seed-0
    python -m experiments.scripts.overlay naive runs/traffic/seed-0
    python -m experiments.scripts.overlay measure runs/traffic/seed-0
    python -m experiments.scripts.overlay picture runs/traffic/seed-0

`burn` divides experiments/data/traffic32.npz and writes arrays `videos`, N x 16 x 32 x 32 x 3, into its folder traffic:

    full.npz            64 clean videos
    broadcast.npz       the other 576 under the overlay, and `videos_mask`, N x 16 x 32 x 32: where no caption is
    before.npz          the same 576 before: for the oracle, and for the detectors
    test.npz            88 clean videos of the data's own test part
    test-broadcast.npz  the same 88 under the overlay, with `videos_mask`
    few.npz             every eighth of test.npz, and few-broadcast.npz: to restore

The overlay, on a video x with values in [0, 255], is x <- (1 - a) x + a w:

    logo     a ring around a triangle, 8 x 8 pixels at the top right, 85 % opaque, soft rims, the same in all frames;
    caption  words in white on a strip of 55 % black, 7 rows high and as wide as the picture, in five of six videos.
             It is at another height in each, drifts by up to three rows, and is there for 7 to 14 of the 16 frames.

What hides the captions is known, as it is from a subtitle track; what hides the logo, `bootdiff masks` must find.

`naive` trains, in the run and as its oracle is trained, on the clean videos and on the broadcast ones as they lie on
the disk, as if these were clean: RUN/naive_mix.  `measure` draws videos of this and of the run's arms, and asks the
detectors of `experiments.benchmark.overlay_detection`; it writes experiments/results/traffic/overlay-seed-S.json and
prints a table.
`picture` draws docs/images/traffic.png.
The filters are learned on half of the videos of before.npz under an overlay drawn with another seed, and calibrated on
the other half.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from bootdiff.cli.compare import Assessment, draw
from bootdiff.cli.console import Console
from bootdiff.cli.session import device_of, load_arm, open_session, read_run, saved_arms
from bootdiff.data import Mixture
from bootdiff.data import measure as moments
from bootdiff.denoise import IsotropicGaussian
from bootdiff.evaluation.evaluate import sample_losses, tabulate
from bootdiff.method.problem import in_memory
from bootdiff.method.trainer import Task
from bootdiff.recipe.build import build_problem, open_data
from bootdiff.serialization import load, save
from bootdiff.training.files import load_tensors, read_json
from experiments.benchmark.baselines.mixing import MixedObjective
from experiments.benchmark.overlay_detection import Trace, caption_trace, logo_trace, table
from experiments.scripts.results import DATA, RESULTS, ROOT, command, write_result

__all__ = ["burn", "captions", "detectors", "logo", "main", "measure", "naive", "picture", "write"]

TRAFFIC = DATA / "traffic"
ROWS, ALPHA = 7, 0.05
LEFT_OF_LOGO = (0, 22)
ARMS = ("full_only", "bootdiff", "oracle")
WORDS = [
    "RAIN", "SNOW", "FOG", "ICE", "WIND", "SLOW", "STOP", "EXIT", "LANE", "ROAD", "JAM", "TOLL", "WEST", "EAST",
    "NORTH", "SOUTH", "LIVE", "NEWS", "CITY", "NOON", "NIGHT", "HOUR", "MILE", "WORK", "ZONE", "LEFT", "RIGHT", "BUS",
    "CAR",
]  # fmt: skip


def logo(height: int = 32, width: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Opacity (height, width, 1) and colours (height, width, 3) of the logo."""
    k, side = 16, 8
    page = Image.new("L", (side * k, side * k))
    pen = ImageDraw.Draw(page)
    pen.ellipse((0, 0, side * k - 1, side * k - 1), outline=255, width=int(1.3 * k))
    pen.polygon([(3.0 * k, 2.4 * k), (3.0 * k, 5.6 * k), (5.7 * k, 4.0 * k)], fill=255)
    a = np.zeros((height, width, 1))
    a[2 : 2 + side, width - 2 - side : width - 2, 0] = np.asarray(page.resize((side, side), Image.Resampling.BOX)) / 255
    return 0.85 * a, np.broadcast_to(np.array([255.0, 240.0, 140.0]), (height, width, 3))


def line(rng: np.random.Generator, width: int = 32) -> np.ndarray:
    """Words as wide as the strip, (ROWS, width) in [0, 1]."""
    font = ImageFont.load_default(8)
    text = " ".join(rng.choice(WORDS, 3, replace=False))
    while font.getlength(text) > width - 1:
        text = text[:-1].rstrip()
    page = Image.new("L", (width, ROWS))
    ImageDraw.Draw(page).text((width / 2, ROWS - 1), text, 255, font, anchor="ms")
    return np.asarray(page) / 255


def captions(count: int, frames: int, height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Opacity (count, frames, height, width, 1), gray value of the same shape, and the strip's top row, -1 for none."""
    shape = (count, frames, height, width, 1)
    a, w, top = np.zeros(shape), np.zeros(shape), np.full((count, frames), -1)
    for i in range(count):
        if rng.random() < 1 / 6:
            continue
        letters = line(rng, width)
        length = int(rng.integers(7, 15))
        start = int(rng.integers(0, frames - length + 1))
        first = rng.uniform(10, height - ROWS - 1)
        last = np.clip(first + rng.uniform(-3, 3), 10, height - ROWS - 1)
        for t in range(start, start + length):
            row = round(first + (last - first) * (t - start) / (length - 1))
            at = np.s_[i, t, row : row + ROWS, :, 0]
            # White letters over the strip: 1 - (1 - letters) (1 - 0.55) opaque, of the mixed colour.
            a[at] = 1 - (1 - 0.95 * letters) * (1 - 0.55)
            w[at] = 255 * 0.95 * letters / a[at]
            top[i, t] = row
    return a, w, top


def burn(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Videos under the overlay.

    Args:
        x: (N, T, H, W, 3) uint8.

    Returns:
        The videos, uint8; where no caption is, (N, T, H, W) uint8; the caption's top row, (N, T), -1 where none is.
    """
    n, frames, height, width, _ = x.shape
    a, w, top = captions(n, frames, height, width, rng)
    y = x * (1 - a) + w * a
    a_logo, colours = logo(height, width)
    y = y * (1 - a_logo) + colours * a_logo
    return y.round().clip(0, 255).astype(np.uint8), (a[..., 0] == 0).astype(np.uint8), top


def write(source: Path, out: Path, full: int = 64) -> None:
    """Write all files named above.

    Args:
        source: an npz of `train` and `test`, (N, T, H, W, 3) uint8.
        out: the folder of the files.
        full: how many of `train` stay clean; the others are put under the overlay.
    """
    with np.load(source) as z:
        train, test = z["train"], z["test"]
    rng = np.random.default_rng(0)
    order = rng.permutation(len(train))
    clean, before = train[np.sort(order[:full])], train[np.sort(order[full:])]
    out.mkdir(parents=True, exist_ok=True)
    for name, x in (("full", clean), ("before", before), ("test", test)):
        np.savez_compressed(out / f"{name}.npz", videos=x)
    for name, x in (("broadcast", before), ("test-broadcast", test)):
        y, mask, _ = burn(x, rng)
        np.savez_compressed(out / f"{name}.npz", videos=y, videos_mask=mask)
    np.savez_compressed(out / "few.npz", videos=test[::8])
    np.savez_compressed(out / "few-broadcast.npz", videos=y[::8], videos_mask=mask[::8])


def stored(x: np.ndarray) -> torch.Tensor:
    """(N, T, H, W, C) uint8 -> (N, C, T, H, W) in [-1, 1]."""
    return torch.from_numpy(x).movedim(-1, 1).float() / 127.5 - 1


def videos(data: Path, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Videos of a file in stored coordinates, and which of them have a caption, (N,) bool, where that is known."""
    with np.load(data / f"{name}.npz") as z:
        has = (z["videos_mask"] == 0).any((1, 2, 3)) if "videos_mask" in z else None
        return stored(z["videos"]), None if has is None else torch.from_numpy(has)


def detectors(data: Path) -> dict[str, Trace]:
    """What looks for the logo and for captions, both calibrated to a share ALPHA of false alarms on clean videos."""
    with np.load(data / "before.npz") as z:
        before = z["videos"]
    burned, _, top = burn(before[::2], np.random.default_rng(1))
    clean, marked, rest = stored(before[::2]), stored(burned), stored(before[1::2])
    where = torch.from_numpy(logo(*before.shape[2:4])[0][..., 0] > 0)
    found = {
        "logo": logo_trace(clean, marked, where),
        "caption": caption_trace(clean, marked, torch.from_numpy(top), ROWS, LEFT_OF_LOGO),
    }
    return {name: trace.calibrated(rest, ALPHA) for name, trace in found.items()}


def naive(folder: Path) -> None:
    """Train as the oracle is, on all files as they lie on the disk, each as often as any other: RUN/naive_mix."""
    _, recipe = read_run(folder)
    with open_session(recipe, folder, Console()) as session:
        b, problem = session.bootstrap, session.problem
        block = recipe.views["broadcast"].data
        assert block is not None
        files = open_data(recipe, block.model_copy(update={"masks": False}), full=problem.full)
        mixed = replace(b.full_training_set(), train=Mixture([problem.full, files], [-1, 0]))
        training, none = b.settings.training["oracle"], b.no_views(mixed.prior)
        objective = MixedObjective(none, training.noise)
        experts = {}
        for kind, network in b.settings.networks.items():
            task = Task(f"naive_mix-{kind}", mixed, none, network, training, objective=objective)
            experts[task.name] = b.train(task, ["naive mix"])
        save(b.stack("naive_mix", mixed, none, experts), folder / "naive_mix")
        session.write_ledger()


def measure(folder: Path, data: Path, count: int) -> dict[str, Any]:
    """Draw `count` videos of each arm of a run, and look for the overlay in them and in the real ones of `data`.

    Returns:
        {"seed", "false_alarms", "thresholds" of the detectors, "found": {videos: {detector: `Trace.found`}}} and, where
        the run has it, "naive_mix": its denoising loss and what its training cost.
    """
    _, recipe = read_run(folder)
    device, problem = device_of(recipe), build_problem(recipe)
    recipe = recipe.with_defaults_for(problem.shape)
    denoisers = {arm: load_arm(folder, arm, device)[1] for arm in ARMS if arm in saved_arms(folder)}
    if (folder / "naive_mix").is_dir():
        denoisers["naive_mix"] = load(folder / "naive_mix", device)
    assessment = Assessment(recipe, problem, folder, denoisers, {}, Console(), device)
    look = detectors(data)

    def found(x: torch.Tensor, has: torch.Tensor | None = None) -> dict[str, Any]:
        """What the detectors find; `has`: ask for captions only where there are some."""
        rows = {"logo": look["logo"].found(x), "caption": look["caption"].found(x if has is None else x[has])}
        return rows if has is None or bool(has.all()) else rows | {"none": look["caption"].found(x[~has])}

    real = {name: found(*videos(data, name)) for name in ("test", "full", "broadcast", "test-broadcast")}
    result: dict[str, Any] = {
        "seed": recipe.seed,
        "false_alarms": ALPHA,
        "thresholds": {name: trace.threshold for name, trace in look.items()},
        "found": real | {arm: found(draw(assessment, arm, count)) for arm in denoisers},
    }
    if "naive_mix" in denoisers:
        scale = moments(problem.full)
        base = IsotropicGaussian(problem.shape, scale["mean"], scale["sigma_data"]).to(device)
        test, levels = in_memory(assessment.reference).to(device), list(recipe.levels)
        mix = {"naive_mix": denoisers["naive_mix"]}
        losses = sample_losses(mix, test, levels, base, recipe.evaluate.draws, seed=7)
        stages = read_json(folder / "ledger.json")
        flops = sum(row["flops"] for name, row in stages.items() if name.startswith("naive_mix-"))
        result["naive_mix"] = tabulate(losses, levels)["naive_mix"] | {"flops": flops}
    return result


def picture(folder: Path, data: Path, out: Path) -> None:
    """Files as they come, what is hidden of them, videos drawn by bootdiff and by the naive mix, and means of all."""
    from bootdiff.cli.report.images import grid, panels, save_png, to_pil

    _, recipe = read_run(folder)
    view = build_problem(recipe).views["broadcast"]
    assert view.train is not None
    files, _, masks = view.train.batch([1, 2, 4, 8])
    drawn = {arm: load_tensors(folder / "samples" / f"{arm}.safetensors")[0]["x"] for arm in ("bootdiff", "naive_mix")}
    rows = {
        "files as they come": (files, None),
        "found and known: pink is hidden": (files, masks),
        "drawn by bootdiff": (drawn["bootdiff"][:4].float() / 127.5 - 1, None),
        "drawn by the naive mix": (drawn["naive_mix"][:4].float() / 127.5 - 1, None),
    }
    sheets = {}
    for name, (x, m) in rows.items():
        frames = [(i, t) for i in range(len(x)) for t in range(0, 16, 2)]
        pictures = [to_pil(x[i, :, t], None if m is None else m[i, :, t]) for i, t in frames]
        sheets[name] = grid(pictures, 8, 64)
    names = list(sheets)
    pages = [panels({n: sheets[n] for n in pair}) for pair in (names[:2], names[2:])]
    means = {"clean files": videos(data, "before")[0], "broadcast files": videos(data, "broadcast")[0]}
    means |= {f"videos drawn by {arm.replace('_', ' ')}": x.float() / 127.5 - 1 for arm, x in drawn.items()}
    averages = {f"mean of {len(x)} {name}": x.mean((0, 2)) for name, x in means.items()}
    # All stretched alike, about the mean of each.
    stretched = {name: grid([to_pil(2.5 * (x - x.mean()))], 1, 160) for name, x in averages.items()}
    pages.append(panels(stretched))
    page = grid(pages, 1, side=1, gap=0)
    save_png(page.crop((0, 0, page.width, page.height - max(p.height for p in pages) + pages[-1].height)), out)


def main(arguments: Sequence[str] | None = None) -> None:
    """One of the four verbs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    what = {
        "burn": "write the videos",
        "naive": "train the naive mix",
        "measure": "look for the overlay",
        "picture": "draw what was drawn",
    }
    for name, help_text in what.items():
        verb = verbs.add_parser(name, help=help_text)
        if name != "naive":  # which reads what the run's recipe names
            verb.add_argument("--data", type=Path, default=TRAFFIC, help="folder of the videos")
        if name == "burn":
            verb.add_argument("--source", type=Path, default=DATA / "traffic32.npz")
            verb.add_argument("--full", type=int, default=64, help="videos that stay clean")
        else:
            verb.add_argument("run", type=Path, help="run of experiments/recipes/traffic.yaml")
        if name == "measure":
            verb.add_argument("--count", type=int, default=128, help="videos drawn of each arm")
            verb.add_argument("--out", type=Path, default=RESULTS / "traffic")
        if name == "picture":
            verb.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "traffic.png")
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(given)
    if args.verb == "burn":
        write(args.source, args.data, args.full)
    elif args.verb == "naive":
        naive(args.run)
    elif args.verb == "picture":
        picture(args.run, args.data, args.out)
    else:
        found = measure(args.run, args.data, args.count)
        path = args.out / f"overlay-seed-{found['seed']}.json"
        write_result(path, "overlay", given, found)
        print(f"{path}\n\n{table(found | {'command': command('overlay', given)})}")


if __name__ == "__main__":
    main()

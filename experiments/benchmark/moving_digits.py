"""Moving MNIST (Srivastava et al. 2015, arXiv 1502.04681) in code, and exact measures of what happens in a video.

Handwritten digits, one or two, move in a square, each at a constant velocity, and bounce off its walls: with
q(t) = p + v t and the room R that a digit has, its corner stands at the reflection

    x(t) = R - |(q(t) mod 2 R) - R|,      in each direction by itself;

frames show the largest value at each pixel, shifted by fractions of pixels.  So a video's first frames decide all
others, and a long one is right or wrong whatever the statistics of single frames say:

    alone        share of the frames that show as many things as there are digits, apart from each other
    count        share of the frames that show one thing (where two digits meet) to as many as there are digits
    same         correlation of a digit's picture in the last frame where all are apart with that in the first one
    off course   root mean square of the pixels between where a digit is and where the motion above that fits it best
                 has it, over the frames where all are apart
    bounces      wall contacts of that motion between the first and the last of them
    like real    correlation of a frame's picture with the one among many real frames that is most like it (`likeness`)

A thing is what is bright and coherent: values above `BRIGHT`, holes of one pixel closed, at least `LEAST` pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage, optimize

__all__ = ["BRIGHT", "LEAST", "Track", "centre", "followed", "likeness", "measures", "position", "render", "simulate"]

BRIGHT, LEAST = 0.25, 8
_APART, _SPAN = 5, 0.6  # frames that must show all apart, and the share of the video that they must span
_MEETINGS = 3  # of the digits, after which either way to go on is tried
_SPEED = (1.0, 2.5)  # pixels per frame


def position(p: np.ndarray, v: np.ndarray, t: np.ndarray, room: float) -> np.ndarray:
    """x(t) of this file. p, v: (..., 2); t: (T,). Returns (..., T, 2).

    >>> position(np.array([3.0, 0.0]), np.array([2.0, -1.0]), np.arange(4), 5.0).tolist()
    [[3.0, 0.0], [5.0, 1.0], [3.0, 2.0], [1.0, 3.0]]
    """
    q = p[..., None, :] + v[..., None, :] * t[:, None]
    return room - np.abs(q % (2 * room) - room)


def simulate(digits: np.ndarray, count: int, frames: int, size: int, seed: int, each: int = 2) -> np.ndarray:
    """Videos of `each` digits, one or two.

    Args:
        digits: (n, h, h), uint8 or floats from 0 to 255.
        count: how many videos.
        size: of the square, in pixels.

    Returns:
        (count, frames, size, size, 1), uint8.
    """
    rng = np.random.default_rng(seed)
    room = float(size - digits.shape[1])
    which = rng.integers(0, len(digits), (count, each))
    start = rng.uniform(0, room, (count, each, 2))
    angle, speed = rng.uniform(0, 2 * np.pi, (count, each)), rng.uniform(*_SPEED, (count, each))
    v = speed[..., None] * np.stack([np.sin(angle), np.cos(angle)], -1)
    where = position(start, v, np.arange(frames), room)  # (count, each, frames, 2)
    videos = np.zeros((count, frames, size, size, 1), np.uint8)
    for i, k in itertools.product(range(count), range(each)):
        digit = digits[which[i, k]].astype(np.float64)
        for t in range(frames):
            frame = videos[i, t, ..., 0]
            np.maximum(frame, render(digit, where[i, k, t], size).round().astype(np.uint8), out=frame)
    return videos


def render(digit: np.ndarray, corner: np.ndarray, size: int) -> np.ndarray:
    """A digit (h, h) in a square of zeros with its upper left corner at fractions of pixels, by bilinear weights."""
    whole = np.minimum(np.floor(corner).astype(int), size - digit.shape[0] - 1).clip(0)
    down, right = corner - whole
    padded = np.pad(digit, ((0, 1), (0, 1)))
    rolled = (1 - down) * padded + down * np.roll(padded, 1, 0)
    moved = (1 - right) * rolled + right * np.roll(rolled, 1, 1)
    out = np.zeros((size, size))
    h = digit.shape[0] + 1
    part = out[whole[0] : whole[0] + h, whole[1] : whole[1] + h]
    part[:] = moved[: part.shape[0], : part.shape[1]]
    return out


@dataclass(frozen=True)
class Track:
    """One digit through a video: `at`, frames where all are apart (k,); `where`, its centre of brightness
    (k, 2); `first`, `last`, its pictures there, cut around the centre."""

    at: np.ndarray
    where: np.ndarray
    first: np.ndarray
    last: np.ndarray


def things(frame: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Things in a frame (H, W) in [0, 1]: for each its centre of brightness (2,) and its pixels (H, W) bool."""
    bright = frame > BRIGHT
    labels, count = ndimage.label(ndimage.binary_dilation(bright, np.ones((3, 3))), np.ones((3, 3)))
    found = []
    for k in range(1, count + 1):
        pixels = bright & (labels == k)
        if pixels.sum() < LEAST:
            continue
        found.append((centre(frame, pixels), pixels))
    return found


def centre(frame: np.ndarray, pixels: np.ndarray | None = None) -> np.ndarray:
    """Centre of brightness (of these pixels and their neighbours): it moves as a digit does, by fractions of pixels."""
    weights = frame if pixels is None else frame * ndimage.binary_dilation(pixels, np.ones((3, 3)))
    rows, columns = np.indices(frame.shape)
    return np.array([(weights * rows).sum(), (weights * columns).sum()]) / weights.sum()


def followed(video: np.ndarray, side: int, each: int = 2) -> tuple[list[Track], list[tuple[np.ndarray, int]]]:
    """The `each` digits of a video (T, H, W) in [0, 1], and their courses (`_course`); none where too few frames show
    them apart.

    Frame by frame the nearest is the same. Which is which after two met, the motion says: of all ways to go on, the
    one with the least distances from a course. (The pictures have no say, or "same" would be so by construction.)
    """
    apart = [(t, found) for t, frame in enumerate(video) if len(found := things(frame)) == each]
    if len(apart) < _APART or apart[-1][0] - apart[0][0] + 1 < _SPAN * len(video):
        return [], []
    pieces: list[list[tuple[int, Any]]] = []
    for t, found in apart:
        if pieces and pieces[-1][-1][0] == t - 1:
            before = pieces[-1][-1][1]
            turned = found[::-1]
            pieces[-1].append((t, found if _moved(before, found) <= _moved(before, turned) else turned))
        else:
            pieces.append([(t, found)])
    best: tuple[float, list[Track], list[tuple[np.ndarray, int]]] = (np.inf, [], [])
    for turns in itertools.product((1, -1), repeat=min(len(pieces) - 1, _MEETINGS) if each == 2 else 0):
        ways = (1, *turns, *[1] * (len(pieces) - 1 - len(turns)))
        frames = [(t, found[::way]) for piece, way in zip(pieces, ways, strict=True) for t, found in piece]
        tracks = [_track(video, [(t, found[k]) for t, found in frames]) for k in range(each)]
        courses = [_course(one, video.shape[-1] - side, side) for one in tracks]
        misfit = float(sum(np.square(off).sum() for off, _ in courses))
        if misfit < best[0]:
            best = misfit, tracks, courses
    return best[1], best[2]


def _moved(before: Sequence[tuple[np.ndarray, Any]], now: Sequence[tuple[np.ndarray, Any]]) -> float:
    """How far things went, all together, from one frame to the next."""
    return float(sum(np.linalg.norm(a[0] - b[0]) for a, b in zip(before, now, strict=True)))


def _track(video: np.ndarray, mine: Sequence[tuple[int, Any]]) -> Track:
    where = np.stack([thing[0] for _, thing in mine])
    cuts = [
        _cut(video[t] * ndimage.binary_dilation(pixels, np.ones((3, 3))), centre)
        for t, (centre, pixels) in (mine[0], mine[-1])
    ]
    return Track(np.array([t for t, _ in mine]), where, cuts[0], cuts[1])


def _cut(frame: np.ndarray, centre: np.ndarray, reach: int = 9) -> np.ndarray:
    """What lies around a centre, shifted so that it is in the middle: (2 reach + 1, 2 reach + 1)."""
    padded = np.pad(frame, reach + 1)
    moved = ndimage.shift(padded, np.array(frame.shape) / 2 - centre, order=1)
    middle = np.array(moved.shape) // 2
    return np.asarray(moved[middle[0] - reach : middle[0] + reach + 1, middle[1] - reach : middle[1] + reach + 1])


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two pictures."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-12))


def _course(found: Track, room: float, side: int) -> tuple[np.ndarray, int]:
    """Distances from the digit to the motion that fits it best, (k,) pixels, and the wall contacts of that motion.

    Where a digit's centre of brightness is in its own square, of `side` pixels, is fitted, too.
    """
    t = found.at.astype(float)
    off = np.zeros_like(found.where)
    bounces = 0
    for axis in range(2):
        seen = found.where[:, axis]

        def miss(u: np.ndarray, seen: np.ndarray = seen) -> np.ndarray:
            return np.asarray(u[2] + position(u[:1], u[1:2], t, room)[:, 0] - seen)

        # All velocities there may be, on a grid, through the first place; the nearest ones are refined.
        middle = (side - 1) / 2
        inside = [(c, float(np.clip(seen[0] - c, 0, room))) for c in (middle - 1.5, middle, middle + 1.5)]
        speeds = np.arange(-1.2 * _SPEED[1], 1.2 * _SPEED[1], 0.1)
        starts = [np.array([x - v * t[0], v, c]) for v in speeds for c, x in inside]
        starts = sorted(starts, key=lambda u: float(np.abs(miss(u)).sum()))[:4]
        within = ([-np.inf, -np.inf, 0.0], [np.inf, np.inf, side - 1.0])
        best = min((optimize.least_squares(miss, u, bounds=within) for u in starts), key=lambda fit: float(fit.cost))
        off[:, axis] = miss(best.x)
        q = best.x[0] + best.x[1] * t[[0, -1]]
        bounces += int(abs(np.diff(np.floor(q / room))[0]))
    return np.asarray(np.linalg.norm(off, axis=1)), bounces


def measures(videos: np.ndarray, side: int = 14, each: int = 2) -> dict[str, Any]:
    """What happens in videos (N, T, H, W) in [0, 1]: mean and standard error over videos of each measure above.

    side: of the squares that digits have, in pixels. each: digits in a video, one or two.

    `tracked`: share of the videos that show the digits apart often enough, which the last three measures are of.
    """
    rows: dict[str, list[float]] = {name: [] for name in ("alone", "count", "tracked", "same", "off course", "bounces")}
    for video in videos:
        seen = [len(things(frame)) for frame in video]
        rows["alone"].append(float(np.mean([n == each for n in seen])))
        rows["count"].append(float(np.mean([1 <= n <= each for n in seen])))
        found, courses = followed(video, side, each)
        rows["tracked"].append(float(bool(found)))
        if found:
            rows["off course"].append(float(np.mean([np.sqrt(np.mean(off**2)) for off, _ in courses])))
            rows["same"].append(float(np.mean([_alike(f.first, f.last) for f in found])))
            rows["bounces"].append(float(np.mean([n for _, n in courses])))
    return {name: _mean(values) for name, values in rows.items()}


def likeness(videos: np.ndarray, among: np.ndarray) -> dict[str, float]:
    """Are single frames digits? Of the middle frame of each video (N, T, H, W), around its centre of brightness, the
    correlation with the frame of `among`, (n, t, H, W), that is most like it: mean and standard error over videos."""

    def pictures(frames: np.ndarray) -> np.ndarray:
        cuts = np.stack([_cut(frame, centre(frame + 1e-9)) for frame in frames]).reshape(len(frames), -1)
        cuts = cuts - cuts.mean(1, keepdims=True)
        return np.asarray(cuts / np.linalg.norm(cuts, axis=1, keepdims=True).clip(1e-9))

    every = pictures(among.reshape(-1, *among.shape[2:]))
    return _mean((pictures(videos[:, videos.shape[1] // 2]) @ every.T).max(1).tolist())


def _mean(values: Sequence[float]) -> dict[str, float]:
    n = len(values)
    error = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return {"mean": float(np.mean(values)) if n else float("nan"), "stderr": error, "count": n}

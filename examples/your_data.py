"""Folders as in docs/your-data.md, made of real images and measurements that come with bootdiff's dependencies.

    python examples/your_data.py clinic|film|survey FOLDER

clinic: an MR slice of a head (matplotlib's s1045.ima) in small images: few in full, many as thumbnails.
film: pans over scikit-learn's two photographs as MP4: few reels clean, many under a logo and captions.
survey: elevations of the Jacksboro fault (matplotlib's jacksboro_fault_dem) as four sensors that drive over it read
them, a CSV file per track: few without gaps, many with.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def sample_file(name: str) -> Path:
    """A file of matplotlib's sample data."""
    from matplotlib import get_data_path

    return Path(get_data_path()) / "sample_data" / name


# --- clinic ---


def clinic(folder: Path) -> None:
    """24 x 24 pixels of 16 bits; test/ shows a strip of the head that no other image shows."""
    raw = gzip.decompress(sample_file("s1045.ima.gz").read_bytes())
    head = np.frombuffer(raw, np.uint16).reshape(256, 256)
    rng = np.random.default_rng(0)
    for name, count in (("full", 60), ("small", 800), ("test", 60)):
        strips = (88,) if name == "test" else (24, 56, 120, 152)
        (folder / name).mkdir(parents=True)
        for i in range(count):
            scan = window(head, strips, rng)
            if name == "small":
                scan = scan.reshape(12, 2, 12, 2).mean((1, 3)).round().astype(np.uint16)
            Image.fromarray(scan).save(folder / name / f"scan{i:03d}.png")


def window(head: np.ndarray, strips: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """(24, 24) of one of the strips, 32 columns wide each, where there is tissue."""
    while True:
        top, left = rng.integers(24, 216), rng.choice(strips) + rng.integers(0, 9)
        part = head[top : top + 24, left : left + 24]
        if part.mean() > 8000:
            return part


# --- film ---

WORDS = ["WHO", "IS", "IT", "NO", "ONE", "COME", "HERE", "LOOK", "UP", "LATE", "WE", "GO", "NOW", "SO", "STAY", "OUT"]


def film(folder: Path) -> None:
    """Reels of 24 frames of 32 x 32 pixels; test/ pans over the right third of the photographs, which no other does."""
    from sklearn.datasets import load_sample_images

    photos, rng = load_sample_images().images, np.random.default_rng(0)
    for name, sides, count in (("clean", (0, 420), 16), ("subtitled", (0, 420), 120), ("test", (420, 640), 10)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            reel = pan(photos[i % 2][:, slice(*sides)], rng)
            save(caption(reel, rng) if name == "subtitled" else reel, folder / name / f"reel{i:03d}.mp4")


def pan(photo: np.ndarray, rng: np.random.Generator, frames: int = 24) -> list[Image.Image]:
    """A window of a random size that moves over the photograph at a steady pace, and stops at its rim."""
    height, width = photo.shape[:2]
    side = int(rng.integers(64, 160))
    room = np.array([width - side, height - side])
    start = rng.uniform(0, 1, 2) * room
    stop = start + rng.uniform(-3, 3, 2) * frames
    whole = Image.fromarray(photo)
    corners = [np.clip(start + (stop - start) * t / (frames - 1), 0, room) for t in range(frames)]
    return [whole.resize((32, 32), Image.Resampling.BOX, (*c, *(c + side))) for c in corners]


def caption(reel: list[Image.Image], rng: np.random.Generator) -> list[Image.Image]:
    """A logo in the corner, and a black band with other words every twelve frames."""
    out = []
    for t, frame in enumerate(reel):
        if t % 12 == 0:
            text = " ".join(rng.choice(WORDS, 2))
        frame = frame.copy()
        draw = ImageDraw.Draw(frame)
        draw.rectangle((0, 24, 31, 31), fill=(10, 10, 10))
        draw.text((1, 23), text, fill=(240, 240, 240), font=ImageFont.load_default(7))
        draw.ellipse((24, 1, 30, 7), fill=(230, 60, 40), outline=(250, 250, 250))
        out.append(frame)
    return out


def save(reel: list[Image.Image], path: Path) -> None:
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=12, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = *reel[0].size, "yuv420p"
        for frame in reel:
            file.mux(stream.encode(av.VideoFrame.from_image(frame)))
        file.mux(stream.encode())


# --- survey ---


def survey(folder: Path) -> None:
    """Four neighbouring rows of the map are a track, test/ holds three strips of five tracks."""
    with np.load(sample_file("jacksboro_fault_dem.npz")) as data:
        tracks = data["elevation"].reshape(86, 4, 403).swapaxes(1, 2).astype(float)  # (track, reading, sensor)
    rng = np.random.default_rng(0)
    for name in ("whole", "gaps", "test"):
        (folder / name).mkdir(parents=True)
    for i, track in enumerate(tracks):
        name = "test" if i % 24 > 18 else "whole" if i % 24 == 8 else "gaps"
        if name == "gaps":
            for sensor in range(4):
                for _ in range(4):
                    start, length = rng.integers(0, 403), rng.integers(10, 60)
                    track[start : start + length, sensor] = np.nan
        rows = [",".join("" if np.isnan(v) else f"{v:.0f}" for v in row) for row in track]
        (folder / name / f"track{i:02d}.csv").write_text("\n".join(["front,left,right,rear", *rows]) + "\n")


SITUATIONS = {"clinic": clinic, "film": film, "survey": survey}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in SITUATIONS:
        sys.exit(f"usage: python {sys.argv[0]} {'|'.join(SITUATIONS)} FOLDER")
    SITUATIONS[sys.argv[1]](Path(sys.argv[2]))

"""Draws docs/images/views.png: what each view's files show of one short video.  Run it from the repository's root."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw

from bootdiff.views import Crop, Downsample, FrameStride, FrameWindow, Identity, Mask, RandomMask, Stills, View, compose

T, SIDE, SCALE = 12, 16, 3
FULL = (1, T, SIDE, SIDE)


def video() -> torch.Tensor:
    """A bright spot that crosses a faint pattern, (1, 1, T, SIDE, SIDE) in [-1, 1]."""
    t = torch.arange(T)[:, None, None] / (T - 1)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    spot = torch.exp(-((x - 2 - 11 * t) ** 2 + (y - 12 + 8 * t) ** 2) / 7)
    pattern = 0.15 * (torch.sin(x * 0.9) * torch.sin(y * 0.7) + 1)
    return (2 * (spot + pattern).clamp(max=1) - 1)[None, None]


def row(view: View, name: str) -> Image.Image:
    """The stored file's frames, where they stand in time; what is hidden in pink."""
    strip = Image.new("RGB", (170 + T * (SIDE * SCALE + 4), SIDE * SCALE + 8), "white")
    ImageDraw.Draw(strip).text((4, SIDE * SCALE // 2 - 4), name, fill="black")
    file, mask = view(video())[0] / view.scale, view.mask(FULL)
    if file.ndim == 3:
        file = file[:, None]
    place = view.lift(torch.ones(1, *view.shape(FULL)), FULL)[0, 0].flatten(1).abs().sum(1) > 0
    shown = list(range(T)) if mask is not None else place.nonzero()[:, 0].tolist()
    step = max(1, len(shown) // file.shape[1])
    for i, frame in enumerate(file[0]):
        gray = ((frame + 1) * 127.5).round().clamp(0, 255).byte()
        rgb = gray[..., None].expand(-1, -1, 3).clone()
        if mask is not None:
            rgb[mask[0, i] == 0] = torch.tensor([255, 160, 200], dtype=torch.uint8)
        width = rgb.shape[1] * SCALE
        picture = Image.fromarray(rgb.numpy()).resize((width, rgb.shape[0] * SCALE), Image.Resampling.NEAREST)
        strip.paste(picture, (170 + shown[i * step] * (SIDE * SCALE + 4), 4))
    return strip


def main() -> None:
    rng = torch.Generator().manual_seed(3)
    rows = [
        row(Identity(), "full sample"),
        row(FrameWindow(4, offset=5), "frame_window, length 4"),
        row(Stills(frame=6), "stills"),
        row(FrameStride(3, offset=1), "frame_stride, every 3"),
        row(Downsample(2), "downsample, factor 2"),
        row(Downsample(3, axes=(-3,)), "downsample, axes [-3]"),
        row(compose(FrameWindow(6, offset=0), Downsample(2)), "window, then downsample"),
        row(Crop((12, 8, 8), offset=(0, 4, 4)), "crop, size 8"),
        row(Mask(band=("bottom", 4)), "mask, band"),
        row(RandomMask(hide="moving").draw(FULL, rng), "random_mask, moving"),
        row(RandomMask(hide="gap").draw(FULL, rng), "random_mask, gap"),
    ]
    sheet = Image.new("RGB", (rows[0].width, sum(r.height for r in rows)), "white")
    for i, strip in enumerate(rows):
        sheet.paste(strip, (0, i * strip.height))
    sheet.quantize(64).save("docs/images/views.png", optimize=True)


if __name__ == "__main__":
    main()

"""`bootdiff masks`: images in; out, a mask and an image to check it by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bootdiff.errors import BootdiffError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["masks"]

# At most this many images, and values (256 MB), are used to find a static overlay; this many files suffice.
_IMAGES, _VALUES, _SHARP = 1000, 2**26, 64


def masks(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Images or videos: a folder, or an array.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: masks/NAME of DIR.")] = None,
    moving: Annotated[
        bool, typer.Option("--moving", "--per-frame", help="A mask for each file or frame, for text that changes.")
    ] = False,
    video: Annotated[bool, typer.Option("--video", help="Sub-folders of images are the frames of videos.")] = False,
    grow: Annotated[int, typer.Option(min=0, help="Also hide this many pixels around what was found.")] = 0,
    key: Annotated[str | None, typer.Option(help="Name of the array in an .npz file.")] = None,
) -> None:
    """Find a logo, watermark or subtitle band and draw its mask.

    Looks for an overlay at the same place in many images. Writes mask.png (white = observed) and check.png, to look
    at before the mask is used; this command masks nothing itself. Where nothing is found, it writes nothing, prints so
    and exits with code 0.

    bootdiff masks photos/with-logo
    bootdiff masks film/frames --moving --out film/masks
    """
    from bootdiff.cli.console import Console
    from bootdiff.tools.find_masks import find_overlay, find_text, usual_strokes

    screen = Console()
    items = _items(folder, key, video=video)
    x, factor, whole = _read_images(items, folder, screen)
    overlay = find_overlay(x)
    hidden = _grown(_enlarged(overlay.hidden, factor, whole), grow)
    out = out or Path("masks") / folder.resolve().stem
    if overlay.left_out:
        screen.print(
            f"these images are alike in many places (aligned, or with one background): {', '.join(overlay.left_out)} "
            "cannot tell an overlay from that; a half-transparent one may have been missed"
        )
    if hidden.any():
        counted = f"{int(hidden.sum()):,} of {hidden.size:,} pixels ({hidden.mean():.1%})"
        screen.print(f"a static overlay hides {counted}")
    if not moving:
        if not hidden.any():
            screen.print(f"no static overlay was found in {len(x)} images; no mask is written", "bold")
            return
        _write_static(out, hidden, overlay, x, factor)
        screen.print(f"Look at {out / 'check.png'}. If it is right, the view of these files is", "bold")
        screen.print(f"  view: {{kind: mask, image: {out / 'mask.png'}}}")
        return
    usual = usual_strokes(x[:: max(1, len(x) // 64)]) if factor == 1 else None
    written = _Masks(out, folder, items[0].kind)
    most: list[tuple[float, np.ndarray, np.ndarray]] = []
    with screen.work("looking for text", len(items)) as done:
        for k, item in enumerate(items):
            for image in item.read():
                usual = usual or usual_strokes(image[None])
                text = find_text(image, usual)
                mask = _grown(text, grow) | (hidden if hidden.shape == text.shape else False)
                written.add(item.name, mask)
                most = sorted([*most, (float(text.mean()), image, mask)], key=lambda s: -s[0])[:6]
            done(k + 1)
    written.close()
    if not written.count:
        screen.print(f"no text and no static overlay was found in {written.total} images; no mask is written", "bold")
        return
    share = written.pixels[0] / written.pixels[1]
    screen.print(f"{written.count:,} of {written.total:,} images have something hidden, {share:.1%} of all pixels")
    _write_check(out / "check.png", [(p, m) for _, p, m in most], {})
    screen.print(f"Look at {out / 'check.png'} and at some of the masks beside it. If they are right:", "bold")
    if items[0].kind == "array":
        screen.print(f"  put {out / 'masks.npy'} into the .npz file, and name it in data: {{masks: ...}}")
    else:
        screen.print(f"  copy them beside the files: cp -r {out}/. {folder}/")
        screen.print(f"  data: {{path: {folder}, masks: true}}")
    screen.print("  view: {kind: random_mask}")


# --- images ---


@dataclass(frozen=True)
class _Item:
    """An image, a video or a sample of an array; `read` yields its images (C, H, W), float32 in [-1, 1]."""

    name: str
    kind: str
    read: Callable[[], Iterator[np.ndarray]]


def _items(path: Path, key: str | None, *, video: bool) -> list[_Item]:
    from bootdiff.data.folders import list_files, natural_order, nothing_found
    from bootdiff.data.readers.decode import IMAGE_SUFFIXES
    from bootdiff.data.readers.mask_files import without_masks
    from bootdiff.data.readers.video_files import PYAV_SUFFIXES, open_video

    if path.is_file():
        return _of_array(path, key)
    names = [n for n in without_masks(list_files(path, "images")) if ".mask/" not in n.lower()]
    images = [n for n in names if n.lower().endswith(IMAGE_SUFFIXES)]
    videos = [n for n in names if n.lower().endswith((*PYAV_SUFFIXES, ".gif"))]

    def image(name: str) -> Iterator[np.ndarray]:
        yield _floats(_decoded(path / name))

    def video_frames(name: str) -> Iterator[np.ndarray]:
        for _, frame, _ in open_video(path / name, "drop").frames():
            yield _floats(frame)

    def frames(names: Sequence[str]) -> Iterator[np.ndarray]:
        for name in names:
            yield from image(name)

    if videos and not video and not images:
        return [_Item(n, "video", lambda n=n: video_frames(n)) for n in videos]  # type: ignore[misc]
    if not images:
        raise nothing_found(path, names, "images", "an image", (*IMAGE_SUFFIXES, *PYAV_SUFFIXES))
    if not video:
        return [_Item(n, "image", lambda n=n: image(n)) for n in images]  # type: ignore[misc]
    groups: dict[str, list[str]] = {}
    for n in sorted(images, key=natural_order):
        groups.setdefault(n.rpartition("/")[0], []).append(n)
    return [_Item(f"{folder}/", "video", lambda own=own: frames(own)) for folder, own in groups.items()]  # type: ignore[misc]


def _of_array(path: Path, key: str | None) -> list[_Item]:
    from bootdiff.data import open_dataset
    from bootdiff.data.readers.numpy_files import ARRAY_SUFFIXES

    options = {"alpha": "drop"} if path.suffix.lower() in ARRAY_SUFFIXES else {}
    source = open_dataset(path, key=key, **options)
    if len(source.shape) not in (3, 4):
        raise BootdiffError(f"{path}: holds neither images nor videos; overlays are searched in these only")

    def read(i: int) -> Iterator[np.ndarray]:
        x = source[i].x.numpy()
        yield from [x] if x.ndim == 3 else x.swapaxes(0, 1)

    return [_Item(source.name(i), "array", lambda i=i: read(i)) for i in range(len(source))]  # type: ignore[misc]


def _decoded(path: Path) -> np.ndarray:
    from bootdiff.data.readers.decode import Undecodable, decode, read_file

    try:
        return decode(read_file(path), "drop")[0]
    except Undecodable as error:
        raise BootdiffError(f"{path}: {error}; repair or remove the file") from None


def _floats(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) integers -> (C, H, W) float32 in [-1, 1]."""
    from bootdiff.data.readers.images import to_tensor

    return to_tensor(pixels).numpy()


def _read_images(items: Sequence[_Item], folder: Path, screen: Any) -> tuple[np.ndarray, int, tuple[int, int]]:
    """Images (N, C, H, W) evenly spaced over all, reduced by a factor to bound memory; the factor; the full size."""
    import numpy as np

    from bootdiff.data.dataset import spaced_indices
    from bootdiff.tools.find_masks import LEAST_FILES

    chosen = [items[i] for i in spaced_indices(len(items), _IMAGES)]
    each = max(1, _IMAGES // len(chosen))
    kept: list[np.ndarray] = []
    factor, room = 1, _IMAGES
    with screen.work("reading images", len(chosen)) as done:
        for k, item in enumerate(chosen):
            for image in _thinned(item.read(), each):
                if not kept:
                    # At least those that suffice must fit.
                    wanted = min(_SHARP, len(chosen) * each)
                    factor = max(1, int(np.ceil((wanted * image.size / _VALUES) ** 0.5)))
                    room = max(wanted, _VALUES * factor**2 // image.size)
                if len(kept) < room:
                    kept.append(_shrunk(image, factor))
                    whole = image.shape[-2:]
            done(k + 1)
    shape = Counter(p.shape for p in kept).most_common(1)[0][0]
    x = np.stack([p for p in kept if p.shape == shape])
    if len(x) < len(kept):
        screen.print(f"{len(kept) - len(x)} of {len(kept)} images have a different size than most: left out", "yellow")
    if len(x) < LEAST_FILES:
        raise BootdiffError(
            f"{folder}: {len(x)} image(s) of one size; a static overlay can be found in {LEAST_FILES} or more, "
            "and reliably in a hundred: add more"
        )
    size = whole if factor > 1 else x.shape[-2:]
    return x, factor, (int(size[0]), int(size[1]))


def _thinned(images: Iterator[np.ndarray], most: int) -> list[np.ndarray]:
    """At most twice `most` of them, evenly spaced."""
    kept: list[np.ndarray] = []
    every = 1
    for k, image in enumerate(images):
        if k % every == 0:
            kept.append(image)
        if len(kept) > 2 * most:
            kept, every = kept[::2], 2 * every
    return kept


def _shrunk(x: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return x
    c, h, w = (n // factor if i else n for i, n in enumerate(x.shape))
    return x[:, : h * factor, : w * factor].reshape(c, h, factor, w, factor).mean((2, 4))


def _enlarged(hidden: np.ndarray, factor: int, whole: tuple[int, int]) -> np.ndarray:
    import numpy as np

    large = hidden.repeat(factor, 0).repeat(factor, 1)
    return np.pad(large, [(0, n - m) for n, m in zip(whole, large.shape, strict=True)], mode="edge")


def _grown(hidden: np.ndarray, pixels: int) -> np.ndarray:
    from scipy import ndimage

    around = ndimage.generate_binary_structure(2, 2)
    return ndimage.binary_dilation(hidden, around, pixels) if pixels and hidden.any() else hidden


# --- files ---


def _write_static(out: Path, hidden: np.ndarray, overlay: Any, x: np.ndarray, factor: int) -> None:
    import numpy as np

    _write_mask(out / "mask.png", hidden)
    small = hidden[::factor, ::factor][: x.shape[2], : x.shape[3]]
    spread = overlay.deviation / max(float(overlay.deviation.max()), 1e-9) * 2 - 1
    maps = {"mean of all": overlay.mean, "deviation": spread[None].astype(np.float32)}
    _write_check(out / "check.png", [(x[i], small) for i in (0, len(x) // 2, len(x) - 1)], maps)


def _write_mask(path: Path, hidden: np.ndarray) -> None:
    """White where observed."""
    import numpy as np
    from PIL import Image

    from bootdiff.cli.report.images import save_png

    save_png(Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8)), path)


class _Masks:
    """One mask per image, in the layout of the files; nothing is written unless some mask hides something.

    name.mask.png for an image, name.mask/ with one per frame for a video, one array for an array.
    """

    def __init__(self, out: Path, folder: Path, kind: str) -> None:
        self.out, self.folder, self.kind = out, folder, kind
        self.count = self.total = 0
        self.pixels = [0, 0]
        self._waiting: list[tuple[str, int, tuple[int, ...]]] = []
        self._frames: Counter[str] = Counter()
        self._kept: dict[str, list[np.ndarray]] = {}

    def add(self, name: str, hidden: np.ndarray) -> None:
        number = self._frames[name]
        self._frames[name] += 1
        self.total += 1
        self.count += bool(hidden.any())
        self.pixels[0] += int(hidden.sum())
        self.pixels[1] += hidden.size
        if not self.count:
            self._waiting.append((name, number, hidden.shape))
            return
        import numpy as np

        for other, at, shape in self._waiting:
            self._write(other, at, np.zeros(shape, bool))
        self._waiting = []
        self._write(name, number, hidden)

    def close(self) -> None:
        """Write what can only be written at the end."""
        import numpy as np

        if self._kept:
            stacked = np.stack([np.stack(own) for own in self._kept.values()])
            self.out.mkdir(parents=True, exist_ok=True)
            np.save(self.out / "masks.npy", stacked[:, 0] if set(self._frames.values()) == {1} else stacked)

    def _write(self, name: str, number: int, hidden: np.ndarray) -> None:
        if self.kind == "array":
            self._kept.setdefault(name, []).append((~hidden).astype("uint8"))
        elif self.kind == "image":
            _write_mask(self.out / f"{name[: name.rindex('.')]}.mask.png", hidden)
        else:
            stem = name.rstrip("/") if name.endswith("/") else name[: name.rindex(".")]
            _write_mask(self.out / f"{stem or self.folder.resolve().name}.mask" / f"{number:06d}.png", hidden)


def _write_check(path: Path, rows: Sequence[tuple[np.ndarray, np.ndarray]], maps: dict[str, np.ndarray]) -> None:
    import numpy as np
    import torch

    from bootdiff.cli.report.images import grid, panels, save_png, to_pil

    def drawn(x: np.ndarray, hidden: np.ndarray | None = None) -> Any:
        mask = None if hidden is None else torch.from_numpy(~hidden).float()[None]
        return to_pil(torch.from_numpy(np.ascontiguousarray(x)), mask)

    side = 288
    sheets = {name: grid([drawn(x)], 1, side) for name, x in maps.items()}
    sheets["files"] = grid([drawn(x) for x, _ in rows], 1, side if not maps else side // 2)
    sheets["what the mask hides"] = grid([drawn(x, m) for x, m in rows], 1, side if not maps else side // 2)
    save_png(panels(sheets, "is this the overlay?", "pink is hidden"), path)

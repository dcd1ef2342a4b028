"""Partial data cut out of full samples, for research and tests.

From a pool of full samples x0 the stored file of a view A is

    m = A x0 / scale  (+ std n,  n ~ N(0, I), for Observed),

with whatever is random (which crop, which mask, the noise) fixed by (seed, index): the same on every pass, in every
process and after a resume, as if the files lay on disk. Whole pictures and videos (the identity view) may be corrupted
in ways that no linear map describes: m = K(x0) with K one of the functions in CORRUPTIONS, frame by frame.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bootdiff.data.dataset import SIMULATE, Dataset, Sample, generator
from bootdiff.data.transforms import Mapped
from bootdiff.errors import BootdiffError
from bootdiff.views import Identity, View, to_config

__all__ = ["CORRUPTIONS", "Simulated", "blur", "jpeg", "noise", "quantize"]


class Simulated(Mapped):
    """The files that a view of each sample of ``dataset`` would be.

    ``shape`` is the view's; ``Sample.x`` is in stored coordinates (times ``view.scale`` it is A x0); ``Sample.mask`` is
    the mask drawn for that file where the view hides something. corruption: {"kind": one of CORRUPTIONS, its settings},
    for the identity view only. Up to ``memory`` bytes of finished samples are kept.

    Raises BootdiffError where the view does not fit the samples, ValueError for wrong arguments.
    """

    batch = Dataset.batch

    def __init__(
        self,
        dataset: Dataset,
        view: View,
        seed: int = 0,
        corruption: Mapping[str, Any] | None = None,
        memory: int = 128 << 20,
    ) -> None:
        super().__init__(dataset)
        if dataset.masked:
            raise BootdiffError(
                f"{dataset.where}: has masks; views are cut out of full samples only. Use masks: false."
            )
        if corruption is not None and not isinstance(view, Identity):
            raise ValueError(f"Simulated: a corruption needs the identity view, got {view}")
        try:
            self.shape = tuple(view.shape(dataset.shape))
        except ValueError as error:
            raise BootdiffError(f"{dataset.where}: {error}") from None
        self.view, self.seed = view, int(seed)
        self.corruption = None if corruption is None else _checked(corruption, self.shape)
        self.masked, self.position_conditioned = view.masked, view.position_conditioned
        if dataset.units.standardized:
            self.units = dataset.units.through(view, dataset.shape, dataset.where)
        self._memory = memory
        self._kept: dict[int, Sample] = {}

    def __getitem__(self, index: int) -> Sample:
        index = self._check_index(index)
        if index in self._kept:
            return self._kept[index]
        full = self.dataset[index]
        rng = generator(self.seed, SIMULATE, index)
        view = self.view.draw(self.dataset.shape, rng)
        x, mask = view(full.x[None])[0] / view.scale, view.mask(self.dataset.shape)
        if view.tau > 0:
            n = torch.randn(self.shape, generator=rng) * (view.tau / view.scale)
            x = x + (n if mask is None else n * mask)
        if self.corruption is not None:
            settings = dict(self.corruption)
            x = CORRUPTIONS[settings.pop("kind")](x, rng, **settings)
        # A crop is a window into the whole sample, which must not be kept alive by it.
        sample = Sample(x.clone(), full.label, mask)
        size = 4 * (x.numel() + (0 if mask is None else mask.numel()))
        if (len(self._kept) + 1) * size <= self._memory:
            self._kept[index] = sample
        return sample

    def positions(self, indices: Sequence[int]) -> Tensor | None:
        if not self.position_conditioned:
            return None
        full, drawn = self.dataset.shape, (generator(self.seed, SIMULATE, self._check_index(i)) for i in indices)
        return torch.stack([p for rng in drawn if (p := self.view.draw(full, rng).position_channels(full)) is not None])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}}

    def fingerprint(self) -> str:
        settings = json.dumps([to_config(self.view), self.seed, self.corruption], sort_keys=True)
        return hashlib.sha256((self.dataset.fingerprint() + settings).encode()).hexdigest()


def blur(x: Tensor, rng: torch.Generator, sigma: float = 1.0) -> Tensor:
    """Gaussian blur of ``sigma`` pixels along the last two axes, edges repeated. x: (C, H, W) or (C, T, H, W)."""
    pictures, shape = x.reshape(-1, *x.shape[-2:]), x.shape
    radius = math.ceil(3 * sigma)
    taps = torch.arange(-radius, radius + 1, dtype=x.dtype)
    kernel = torch.exp(-taps.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    for _ in range(2):
        padded = F.pad(pictures[:, None], (radius, radius, 0, 0), mode="replicate")
        pictures = F.conv2d(padded, kernel)[:, 0].transpose(-1, -2)
    return pictures.reshape(shape)


def jpeg(x: Tensor, rng: torch.Generator, quality: int = 20) -> Tensor:
    """Through Pillow's JPEG coder at ``quality`` 1..95, by way of 8 bits, each frame of a video on its own.

    x: (C, H, W) or (C, T, H, W) with C = 1 or 3.
    """
    if x.ndim == 4:
        return torch.stack([jpeg(frame, rng, quality) for frame in x.unbind(1)], 1)
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(0, -1).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if x.shape[0] == 1 else pixels).save(file, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(file), dtype=np.float32).reshape(pixels.shape)
    return torch.from_numpy(decoded).movedim(-1, 0).div(127.5).sub(1).contiguous()


def quantize(x: Tensor, rng: torch.Generator, levels: int = 8) -> Tensor:
    """Rounded to ``levels`` >= 2 even steps over [-1, 1]."""
    return ((x.clamp(-1, 1) + 1) / 2 * (levels - 1)).round() / (levels - 1) * 2 - 1


def noise(x: Tensor, rng: torch.Generator, std: float = 0.1) -> Tensor:
    """White noise of ``std``, clipped to [-1, 1] as files are (without clipping it is the linear view Observed)."""
    return (x + std * torch.randn(x.shape, generator=rng)).clamp(-1, 1)


# What each setting may be: type, least, most.
_SETTINGS: dict[str, tuple[str, type, float, float]] = {
    "blur": ("sigma", float, 1e-3, 100.0),
    "jpeg": ("quality", int, 1, 95),
    "quantize": ("levels", int, 2, 65536),
    "noise": ("std", float, 0.0, 100.0),
}


def _checked(corruption: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    settings = dict(corruption)
    kind = settings.get("kind")
    if kind not in CORRUPTIONS:
        raise ValueError(f"corruption: unknown kind {kind!r}; known kinds: {', '.join(CORRUPTIONS)}")
    name, kind_of, least, most = _SETTINGS[kind]
    unknown = set(settings) - {"kind", name}
    if unknown:
        raise ValueError(f"corruption {kind}: unknown setting {sorted(unknown)[0]!r}; known settings: {name}")
    if name in settings:
        value = settings[name]
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
        if not fits or (kind_of is int and value != int(value)):
            what = "a whole number" if kind_of is int else "a number"
            raise ValueError(f"corruption {kind}: {name} must be {what} in [{least:g}, {most:g}], got {value!r}")
        settings[name] = kind_of(value)
    if len(shape) not in (3, 4) or (kind == "jpeg" and shape[0] not in (1, 3)):
        what = "gray or RGB pictures" if kind == "jpeg" else "pictures"
        raise BootdiffError(
            f"corruption {kind}: needs {what} or videos of them, the samples have shape {shape}; leave it out, or "
            "use a view's `std` for white noise"
        )
    return settings


CORRUPTIONS: dict[str, Callable[..., Tensor]] = {"blur": blur, "jpeg": jpeg, "quantize": quantize, "noise": noise}

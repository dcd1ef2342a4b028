"""Views: what a partial sample shows of a full one.

A view is a linear map A from full samples x (C, *space) to its own space, with

    A A^T = I          co-isometry                        (Downsample, Crop, ChannelMix), or
    A A^T A = A        partial isometry, A A^T = diag(m)  (Mask: hidden coordinates stay, as zeros),

so x = x0 + sigma n, n ~ N(0, I), gives A x = A x0 + sigma A n with A n white wherever something is observed: the view's
denoiser is asked at exactly the noise level sigma, and its answer is lifted by A^T.

    scale   stored files are A x0 / scale. The k-by-k block mean m of a picture is A x0 / k, since A = k * mean has unit
            rows; gray g = w . rgb is A x0 |w|, since A = w^T / |w|. Multiply stored files by `scale` on loading.
    tau     stored files with noise, A x0 / scale + std * n, have noise of deviation tau = scale * std in view coordinates.
    p       placements A_p of a crop grid or of random masks share one denoiser. With C = diag(coverage) they lift as
            C^-1 sum_p A_p^T y_p, and C^-1 sum_p A_p^T A_p is the projection onto what they see.

Samples are (C, *space), tensors (B, C, *space) of any floating dtype; the last two axes are height and width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, reduce
from operator import index
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

__all__ = [
    "VIEWS",
    "ChannelMix",
    "Compose",
    "Crop",
    "Downsample",
    "Identity",
    "Mask",
    "Observed",
    "RandomMask",
    "View",
    "compose",
    "from_config",
    "to_config",
]

Shape = tuple[int, ...]


class View(ABC):
    """A (partial) isometry A from full samples to the view's space. Fields are constructor arguments and the config.

    Concrete views give `shape`, `_forward` and `_adjoint`; a view of several placements gives `placements` and `draw`.
    """

    @property
    def scale(self) -> float:
        """View coordinates per stored coordinate: A x0 = scale * stored file."""
        return 1.0

    @property
    def tau(self) -> float:
        """Standard deviation of the noise in the stored files, in view coordinates; 0 when they are clean."""
        return 0.0

    @property
    def masked(self) -> bool:
        """Whether some view coordinates are hidden, so that the denoiser needs to see a mask."""
        return False

    @property
    def single(self) -> bool:
        """Whether this is one linear map; else it stands for several `placements` and cannot be applied itself."""
        return True

    @abstractmethod
    def shape(self, full: Shape) -> Shape:
        """Shape of the view of a sample of shape `full`. Raises ValueError, naming the sizes, when they do not fit."""

    def __call__(self, x: Tensor) -> Tensor:
        """A x: (B, *full) -> (B, *shape(full)). Raises ValueError when the sizes do not fit."""
        self.shape(tuple(x.shape[1:]))
        self._need_single()
        return self._forward(x)

    def lift(self, y: Tensor, full: Shape) -> Tensor:
        """A^T y: (B, *shape(full)) -> (B, *full). Raises ValueError when the sizes do not fit."""
        full, shape = tuple(full), self.shape(full)
        self._need_single()
        if tuple(y.shape[1:]) != shape:
            raise ValueError(
                f"{self} of samples of shape {full} has shape {shape}, but lift was given {tuple(y.shape[1:])} after "
                f"the batch axis; pass a tensor (B, {', '.join(map(str, shape))}), or the `full` it was taken from"
            )
        return self._adjoint(y, full)

    def placements(self, full: Shape) -> tuple[View, ...]:
        """The single-placement views A_p that share this view's denoiser; (self,) unless a grid. Compute them once."""
        self.shape(full)
        return (self,)

    def draw(self, full: Shape, generator: Generator) -> View:
        """One single-placement view at random, to cut one simulated file; self where there is nothing to draw."""
        self.shape(full)
        return self

    def mask(self, full: Shape) -> Tensor | None:
        """(1, *space of the view) float32 on the CPU, 1 = observed; None when all is. ValueError for many placements."""
        self.shape(full)
        if not self.masked:
            return None
        self._need_single()
        return self._carry(torch.ones(1, *full[1:]))

    def coverage(self, full: Shape) -> Tensor:
        """(*full) float32: how many placements see each coordinate, and 1 where none does (it is a divisor)."""
        return self._count(full).clamp(min=1)

    def rank(self, full: Shape) -> int:
        """Dimension of the row space of A; of all placements together if there are several.

        (A_p each have the same density, rows per coordinate seen; so the union of what they see tells their joint rank.)
        """
        count, rows = self._count(full), 0.0
        for view in self.placements(full):
            m = view.mask(full)
            rows += math.prod(view.shape(full)) * (1.0 if m is None else m.mean(dtype=torch.float64).item())
        return round((count > 0).sum().item() * rows / max(count.sum().item(), 1))

    def _count(self, full: Shape) -> Tensor:
        """(*full): how many placements see each coordinate."""
        views = self.placements(full)
        return sum((v._spread(torch.ones(v.shape(full)), full) for v in views), start=torch.zeros(full)).round()

    def _forward(self, x: Tensor) -> Tensor:
        """A x, sizes being right."""
        raise NotImplementedError(type(self).__name__)

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        """A^T y, sizes being right."""
        raise NotImplementedError(type(self).__name__)

    def _carry(self, m: Tensor) -> Tensor:
        """(1, *space) -> (1, *space of the view): the mean of m over the coordinates that each view coordinate reads."""
        return self._forward(m[None])[0] / self.scale

    def _spread(self, c: Tensor, full: Shape) -> Tensor:
        """(*shape(full)) -> (*full): give every coordinate the value of the view coordinate that reads it, else 0."""
        return self._adjoint(c[None], full)[0] * self.scale

    def _need_single(self) -> None:
        if not self.single:
            raise ValueError(
                f"{self} stands for several placements and cannot be applied itself; apply each of placements(full), "
                "which share one denoiser, or one of them drawn by draw(full, generator)"
            )

    def _misfit(self, full: Shape, what: str) -> ValueError:
        return ValueError(f"{self} does not fit samples of shape {tuple(full)}: {what}")

    def __str__(self) -> str:
        said = []
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if value != f.default:
                big = f.name == "image"
                said.append(f"{f.name}={f'<{len(value)}x{len(value[0])}>' if big else value}")
        return f"{type(self).__name__}({', '.join(said)})"


@dataclass(frozen=True)
class Identity(View):
    """A = I: the full sample itself, or files that are whole but corrupted in a way no linear map describes."""

    def shape(self, full: Shape) -> Shape:
        return tuple(full)

    def _forward(self, x: Tensor) -> Tensor:
        return x

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        return y


@dataclass(frozen=True)
class Downsample(View):
    """A = sqrt(k^n) * mean over blocks of k along n axes; on pictures k * (k-by-k block mean). scale = sqrt(k^n).

    `factor` k >= 1 divides the length of every axis in `axes`, which are counted from the end: (-2, -1) are height and
    width, (-3,) is time in a video (C, T, H, W).

    >>> view = Downsample(2)
    >>> view.shape((3, 8, 6)), view.scale
    ((3, 4, 3), 2.0)
    >>> view(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]))     # the block mean is 3
    tensor([[[[6.]]]])
    """

    factor: int
    axes: tuple[int, ...] = (-2, -1)

    def __post_init__(self) -> None:
        _set(self, factor=index(self.factor), axes=tuple(sorted({index(a) for a in self.axes})))
        if self.factor < 1 or not self.axes or self.axes[-1] >= 0:
            raise ValueError(f"{self}: factor must be at least 1, axes negative (counted from the end), such as (-2, -1)")

    @property
    def scale(self) -> float:
        return float(self.factor ** (len(self.axes) / 2))

    def shape(self, full: Shape) -> Shape:
        k, out = self.factor, list(full)
        if -self.axes[0] > len(out):
            raise self._misfit(full, f"there is no axis {self.axes[0]}")
        for a in self.axes:
            if out[a] % k or not out[a]:
                raise self._misfit(
                    full, f"axis {a} has length {out[a]}, not a multiple of {k}; crop the samples or change the factor"
                )
            out[a] //= k
        return tuple(out)

    def _forward(self, x: Tensor) -> Tensor:
        blocks, within = self._blocks(tuple(x.shape), self.factor)
        return x.reshape(blocks).mean(within) * self.scale

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        blocks, within = self._blocks((len(y), *full), self.factor)
        ones = [1 if i in within else n for i, n in enumerate(blocks)]
        return (y / self.scale).reshape(ones).expand(blocks).reshape(len(y), *full)

    def _blocks(self, shape: Shape, k: int) -> tuple[list[int], list[int]]:
        """Shape with every downsampled axis n split in (n / k, k), and where the new axes of length k are."""
        blocks: list[int] = []
        within: list[int] = []
        for i, n in enumerate(shape):
            if i - len(shape) in self.axes:
                blocks += [n // k, k]
                within.append(len(blocks) - 1)
            else:
                blocks.append(n)
        return blocks, within


@dataclass(frozen=True)
class Crop(View):
    """A picks a window of `size` (h, w) at `offset` (top, left) from the last two axes.

    Without an offset it is a grid of placements, `stride` apart (default size // 2) and always up to the last row and
    column; the window may have been cut anywhere, one denoiser serves all. Integers stand for pairs.

    >>> [p.offset for p in Crop(4, stride=3).placements((3, 4, 9))]
    [(0, 0), (0, 3), (0, 5)]
    """

    size: tuple[int, int]
    offset: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _set(self, size=_pair(self.size), offset=_pair(self.offset), stride=_pair(self.stride))
        if min(self.size) < 1 or min(self.offset or (0,)) < 0 or min(self.stride or (1,)) < 1:
            raise ValueError(f"{self}: size and stride must be at least 1, the offset at least 0")
        if self.offset and self.stride:
            raise ValueError(f"{self}: give an offset (one window) or a stride (a grid of windows), not both")

    @property
    def single(self) -> bool:
        return self.offset is not None

    def shape(self, full: Shape) -> Shape:
        (h, w), (t, l) = self.size, self.offset or (0, 0)
        if len(full) < 2 or t + h > full[-2] or l + w > full[-1]:
            raise self._misfit(full, f"the window ends at row {t + h}, column {l + w}; make it smaller or move it")
        return (*full[:-2], h, w)

    def _forward(self, x: Tensor) -> Tensor:
        (h, w), (t, l) = self.size, self.offset or (0, 0)
        return x[..., t : t + h, l : l + w]

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        (h, w), (t, l) = self.size, self.offset or (0, 0)
        return F.pad(y, (l, full[-1] - l - w, t, full[-2] - t - h))

    def placements(self, full: Shape) -> tuple[View, ...]:
        self.shape(full)
        if self.offset is not None:
            return (self,)
        s = self.stride or (max(self.size[0] // 2, 1), max(self.size[1] // 2, 1))
        rows, columns = ([*range(0, n - h, d), n - h] for n, h, d in zip(full[-2:], self.size, s, strict=True))
        return tuple(Crop(self.size, offset=(t, l)) for t in rows for l in columns)

    def draw(self, full: Shape, generator: Generator) -> View:
        views = self.placements(full)
        return views[_randint(len(views), generator)]


@dataclass(frozen=True)
class Mask(View):
    """A = diag(m): the picture at full shape with its hidden coordinates set to zero. Give exactly one of

    `box` (top, left, height, width), hidden; `band` ("bottom" | "top", rows), hidden; `image`, an (H, W) picture of
    zeros and ones (nested sequences or a tensor), 1 = observed.

    >>> Mask(box=(0, 1, 2, 1)).mask((3, 2, 3))
    tensor([[[1., 0., 1.],
             [1., 0., 1.]]])
    """

    box: tuple[int, int, int, int] | None = None
    band: tuple[str, int] | None = None
    image: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        if sum(v is not None for v in (self.box, self.band, self.image)) != 1:
            raise ValueError("Mask: give exactly one of box=(top, left, height, width), band=(side, rows), image=0/1 (H, W)")
        if self.box is not None:
            _set(self, box=tuple(index(v) for v in self.box))
            if len(self.box) != 4 or min(self.box) < 0 or min(self.box[2:]) < 1:
                raise ValueError(f"{self}: box is (top, left, height, width) of the hidden box, in pixels")
        elif self.band is not None:
            _set(self, band=tuple(self.band))
            if len(self.band) != 2 or self.band[0] not in ("bottom", "top") or index(self.band[1]) < 1:
                raise ValueError(f'{self}: band is ("bottom" or "top", number of hidden rows)')
        else:
            m = torch.as_tensor(self.image)
            if m.ndim != 2 or not m.numel() or not ((m == 0) | (m == 1)).all() or not m.any():
                raise ValueError(f"Mask: image must be (H, W) of 0 and 1 = observed, not all 0; got shape {tuple(m.shape)}")
            _set(self, image=tuple(map(tuple, m.int().tolist())))

    @property
    def masked(self) -> bool:
        return True

    def shape(self, full: Shape) -> Shape:
        if len(full) < 3:
            raise self._misfit(full, "a mask needs channels, height and width: (C, H, W)")
        H, W = full[-2:]
        if self.image is not None and (len(self.image), len(self.image[0])) != (H, W):
            raise self._misfit(full, f"the mask is {len(self.image)}x{len(self.image[0])}; draw one of {H}x{W}")
        t, l, h, w = self._window(H, W)
        if t < 0 or t + h > H or l + w > W:
            raise self._misfit(full, f"the hidden part reaches outside of the {H}x{W} pixels; make it smaller or move it")
        if (h, w) == (H, W):
            raise self._misfit(full, "nothing is left to see; hide less")
        return tuple(full)

    def _forward(self, x: Tensor) -> Tensor:
        # filled, not multiplied: whatever stands under the mask, NaN too, is gone
        return x.masked_fill(self._hidden(x), 0)

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        return self._forward(y)

    def _hidden(self, x: Tensor) -> Tensor:
        """(H, W) bool on the device of x (..., H, W), True where hidden."""
        if self.image is not None:
            return self._hidden_image.to(x.device)
        t, l, h, w = self._window(*x.shape[-2:])
        hidden = torch.zeros(x.shape[-2:], dtype=torch.bool, device=x.device)
        hidden[t : t + h, l : l + w] = True
        return hidden

    def _window(self, H: int, W: int) -> tuple[int, int, int, int]:
        """The hidden box (top, left, height, width); an empty one for an image."""
        if self.band is not None:
            side, rows = self.band
            return (H - rows if side == "bottom" else 0, 0, rows, W)
        return self.box or (0, 0, 0, 0)

    @cached_property
    def _hidden_image(self) -> Tensor:
        with torch.inference_mode(False):  # cached for later: it may yet be needed by a backward pass
            return torch.tensor(self.image) == 0


@dataclass(frozen=True)
class RandomMask(View):
    """Masks drawn per file: a `fraction` of the picture is hidden, in one "box" of its proportions or in "pixels".

    `draw` gives a Mask for one file. `count` masks fixed by `seed` are the placements that are asked for a new sample.
    """

    hide: str = "box"
    fraction: float = 0.25
    count: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.hide not in ("box", "pixels") or not 0 < self.fraction < 1 or self.count < 1:
            raise ValueError(f'{self}: hide "box" or "pixels", a fraction between 0 and 1, count at least 1')

    @property
    def masked(self) -> bool:
        return True

    @property
    def single(self) -> bool:
        return False

    def shape(self, full: Shape) -> Shape:
        if len(full) < 3:
            raise self._misfit(full, "a mask needs channels, height and width: (C, H, W)")
        return tuple(full)

    def placements(self, full: Shape) -> tuple[View, ...]:
        generator = Generator().manual_seed(self.seed)
        return tuple(self.draw(full, generator) for _ in range(self.count))

    def draw(self, full: Shape, generator: Generator) -> View:
        H, W = self.shape(full)[-2:]
        if self.hide == "box":
            h, w = (max(1, round(n * math.sqrt(self.fraction))) for n in (H, W))
            view = Mask(box=(_randint(H - h + 1, generator), _randint(W - w + 1, generator), h, w))
        else:
            order = torch.randperm(H * W, generator=generator, device=generator.device)
            view = Mask(image=(order >= max(1, round(self.fraction * H * W))).reshape(H, W))  # type: ignore[arg-type]
        view.shape(full)
        return view


@dataclass(frozen=True)
class ChannelMix(View):
    """A mixes the channels: y_r = sum_c A_rc x_c, with orthonormal rows. Give exactly one of

    `rows` (R, C), orthonormal, stored as they are (scale 1): ((1, 0, 0),) is the first channel;
    `weights` (C,), summing to one, for files of one channel w . x: A = w^T / |w|, scale 1 / |w|.
    """

    rows: tuple[tuple[float, ...], ...] | None = None
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.weights is None):
            raise ValueError("ChannelMix: give exactly one of rows (R, C), orthonormal, or weights (C,), summing to one")
        if self.weights is not None:
            _set(self, weights=tuple(map(float, self.weights)))
            if not abs(sum(self.weights) - 1) < 1e-6:  # else [-1, 1] of the file is not [-1, 1] of the sample
                raise ValueError(f"{self}: the weights sum to {sum(self.weights):g}, not 1; divide them by their sum")
        else:
            _set(self, rows=tuple(tuple(map(float, row)) for row in self.rows or ()))
            A = torch.tensor(self.rows, dtype=torch.float64)
            if A.ndim != 2 or not torch.allclose(A @ A.T, torch.eye(len(A), dtype=A.dtype), atol=1e-6):
                raise ValueError(f"{self}: the rows must be orthonormal to six digits; use torch.linalg.qr(rows.T).Q.T")

    @classmethod
    def gray(cls) -> ChannelMix:
        """RGB to gray by the luma weights of ITU-R BT.601, as Pillow's convert("L").

        >>> round(ChannelMix.gray().scale, 4)
        1.4958
        """
        return cls(weights=(0.299, 0.587, 0.114))

    @property
    def scale(self) -> float:
        return 1.0 if self.weights is None else 1 / math.hypot(*self.weights)

    def shape(self, full: Shape) -> Shape:
        R, C = self._matrix(torch.empty(0)).shape
        if not full or full[0] != C:
            raise self._misfit(full, f"it mixes {C} channels, the samples have {full[0] if full else 'none'}")
        return (R, *full[1:])

    # Products and sums, no matrix product: under autocast that would be rounded to bfloat16.
    def _forward(self, x: Tensor) -> Tensor:
        return (self._matrix(x) * x.unsqueeze(1)).sum(2)

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        return (self._matrix(y) * y.unsqueeze(2)).sum(1)

    def _carry(self, m: Tensor) -> Tensor:
        return m  # masks are alike for all channels

    def _spread(self, c: Tensor, full: Shape) -> Tensor:
        return ((self._matrix(c[None]) != 0) * c.unsqueeze(1)).amax(0)

    def _matrix(self, x: Tensor) -> Tensor:
        """A, (R, C, 1, ..., 1), to go with x (B, R or C, *space)."""
        rows = self.rows or [[w * self.scale for w in self.weights or ()]]
        A = torch.tensor(rows, dtype=x.dtype, device=x.device)
        return A.reshape(A.shape + (1,) * (x.ndim - 2))


@dataclass(frozen=True)
class Observed(View):
    """The inner `view` whose stored files carry white noise: A x0 / scale + std * n, `std` in stored coordinates.

    tau = scale * std; its denoiser is trained at sigma >= tau (Tweedie) and has no say below.
    """

    view: View
    std: float

    def __post_init__(self) -> None:
        if not 0 <= self.std < math.inf:
            raise ValueError(f"{self}: std is the deviation of the noise in stored coordinates [-1, 1]; give one >= 0")

    @property
    def scale(self) -> float:
        return self.view.scale

    @property
    def tau(self) -> float:
        return math.hypot(self.view.tau, self.scale * self.std)

    @property
    def masked(self) -> bool:
        return self.view.masked

    @property
    def single(self) -> bool:
        return self.view.single

    def shape(self, full: Shape) -> Shape:
        return self.view.shape(full)

    def _forward(self, x: Tensor) -> Tensor:
        return self.view._forward(x)

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        return self.view._adjoint(y, full)

    def _carry(self, m: Tensor) -> Tensor:
        return self.view._carry(m)

    def _spread(self, c: Tensor, full: Shape) -> Tensor:
        return self.view._spread(c, full)

    def placements(self, full: Shape) -> tuple[View, ...]:
        return tuple(Observed(p, self.std) for p in self.view.placements(full))

    def draw(self, full: Shape, generator: Generator) -> View:
        return Observed(self.view.draw(full, generator), self.std)


@dataclass(frozen=True)
class Compose(View):
    """A = A_outer A_inner, the view of a view; `compose(first, ..., last)` builds it in the order of application.

    A_outer must not mix what A_inner shows with what it hides: a block mean over the rim of a mask is no partial
    isometry, and `shape` raises ValueError. Downsample first, then mask.
    """

    outer: View
    inner: View

    @property
    def scale(self) -> float:
        return self.outer.scale * self.inner.scale

    @property
    def tau(self) -> float:
        # A_outer keeps white noise white; what is stored after it is scaled by both
        return math.hypot(self.inner.tau, self.inner.scale * self.outer.tau)

    @property
    def masked(self) -> bool:
        return self.outer.masked or self.inner.masked

    @property
    def single(self) -> bool:
        return self.outer.single and self.inner.single

    def shape(self, full: Shape) -> Shape:
        shape = self.outer.shape(self.inner.shape(full))
        if self.inner.masked and self.single:
            m = self._carry(torch.ones(1, *full[1:]))
            if not ((m == 0) | (m == 1)).all():
                raise self._misfit(full, "it averages over the rim of the mask; mask after it, or align the mask to it")
        return shape

    def _forward(self, x: Tensor) -> Tensor:
        return self.outer._forward(self.inner._forward(x))

    def _adjoint(self, y: Tensor, full: Shape) -> Tensor:
        return self.inner._adjoint(self.outer._adjoint(y, self.inner.shape(full)), full)

    def _carry(self, m: Tensor) -> Tensor:
        return self.outer._carry(self.inner._carry(m))

    def _spread(self, c: Tensor, full: Shape) -> Tensor:
        return self.inner._spread(self.outer._spread(c, self.inner.shape(full)), full)

    def placements(self, full: Shape) -> tuple[View, ...]:
        outer, inner = self.outer.placements(self.inner.shape(full)), self.inner.placements(full)
        views = tuple(Compose(o, i) for i in inner for o in outer)
        for view in views:
            view.shape(full)
        return views

    def draw(self, full: Shape, generator: Generator) -> View:
        inner = self.inner.draw(full, generator)
        view = Compose(self.outer.draw(inner.shape(full), generator), inner)
        view.shape(full)
        return view


def compose(*views: View) -> View:
    """The view of a view: `views` are applied from left to right.

    >>> print(compose(ChannelMix.gray(), Downsample(4)).shape((3, 32, 32)))
    (1, 8, 8)
    """
    return reduce(lambda inner, outer: Compose(outer, inner), views) if views else Identity()


def to_config(view: View) -> dict[str, Any]:
    """The view as a JSON-able dict: its kind (a key of VIEWS) and its arguments, those that are None left out.

    >>> to_config(Observed(Downsample(4), std=0.1))
    {'kind': 'observed', 'view': {'kind': 'downsample', 'factor': 4, 'axes': [-2, -1]}, 'std': 0.1}
    """
    kind = next((k for k, cls in VIEWS.items() if cls is type(view)), None)
    if kind is None:
        raise ValueError(f"{type(view).__name__} is no view that can be saved; known: {', '.join(VIEWS)}")
    arguments = {f.name: getattr(view, f.name) for f in fields(view)}  # type: ignore[arg-type]
    return {"kind": kind} | {k: _plain(v) for k, v in arguments.items() if v is not None}


def from_config(config: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> View:
    """The view that `to_config` wrote; a list of such dicts is composed, applied from first to last.

    Raises ValueError for an unknown kind or argument, naming the known ones.
    """
    if isinstance(config, Sequence) and not isinstance(config, str):
        return compose(*map(from_config, config))
    if not isinstance(config, Mapping) or config.get("kind") not in VIEWS:
        raise ValueError(f"a view needs a `kind`, one of {', '.join(VIEWS)}; got {config!r}")
    cls = VIEWS[config["kind"]]
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    arguments = {k: v for k, v in config.items() if k != "kind"}
    if unknown := sorted(map(str, arguments.keys() - set(known))):
        raise ValueError(f"view {config['kind']}: unknown {', '.join(unknown)}; known: {', '.join(known) or 'none'}")
    nested = {k: from_config(v) for k, v in arguments.items() if k in ("view", "outer", "inner")}
    try:
        return cls(**(arguments | nested))
    except TypeError as error:  # an argument is missing or of the wrong type
        raise ValueError(f"view {config['kind']}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, View):
        return to_config(value)
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _set(view: View, **values: Any) -> None:
    """Normalize fields of a frozen dataclass, so that equal views compare equal and can be hashed."""
    for name, value in values.items():
        object.__setattr__(view, name, value)


def _pair(v: Any) -> tuple[int, int] | None:
    if v is None:
        return None
    a, b = v if isinstance(v, Sequence) else (v, v)
    return index(a), index(b)


def _randint(n: int, generator: Generator) -> int:
    return int(torch.randint(n, (), generator=generator, device=generator.device))


VIEWS: dict[str, type[View]] = {
    "identity": Identity,
    "downsample": Downsample,
    "crop": Crop,
    "mask": Mask,
    "random_mask": RandomMask,
    "channel_mix": ChannelMix,
    "observed": Observed,
    "compose": Compose,
}

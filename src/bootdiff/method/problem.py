"""A problem: a few full samples, views of them with plenty of partial ones, as objects.

    full samples -> training + held out;  test: reporting alone;  view i: training + held out, in its own stored scale.

A view's stored files are m = A x0 / scale.  A view inside another one has files of that view's samples,
m' = A' m / scale', so that of the full samples it is A' A with scale scale' scale, and of the outer view's samples, in
*their* coordinates scale m, it is A' again.

Labels number one list of classes in all datasets that have any.  A network whose samples have none is trained without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bootdiff.data import (
    Dataset,
    Reclassed,
    Simulated,
    Subset,
    WithMasks,
    WithPositions,
    axes_of,
    common_classes,
    report_problems,
    split_by_recording,
)
from bootdiff.data.value_range import check_same_range
from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.method.validation import SampleSet
from bootdiff.spec import encode
from bootdiff.views import Compose, Crop, Observed, View, unmasked

__all__ = [
    "Problem",
    "ViewData",
    "check_rate",
    "every_view",
    "fingerprint",
    "hold_out",
    "in_memory",
    "mirrors",
    "partial_data",
    "with_common_classes",
]


@dataclass
class ViewData:
    """One kind of partial data.

    view: of the samples around it: the full ones, or those of the view that it stands in, in their view coordinates.
    through: of the full samples; its scale and tau are those of the files.
    train, held_out: its files; None for a pretrained model without any.
    pretrained: a denoiser in view coordinates, in place of training.
    views: partial data of this view's own samples.
    owner: path of the view whose denoiser it takes, and whose files these are.
    """

    view: View
    through: View
    train: Dataset | None = None
    held_out: Dataset | None = None
    pretrained: Denoiser | None = None
    views: dict[str, ViewData] = field(default_factory=dict)
    owner: str | None = None

    @property
    def is_trained(self) -> bool:
        """Whether networks are trained on its files alone."""
        return self.owner is None and self.pretrained is None and not self.views


@dataclass
class Problem:
    """Full samples and views of them. `oracle` (everything in full, to compare with) and `test` may be None."""

    full: Dataset
    held_out: Dataset
    views: dict[str, ViewData]
    test: Dataset | None = None
    oracle: Dataset | None = None

    @property
    def classes(self) -> list[str] | None:
        """The classes that labels number, the same in every dataset that has labels; None where none has."""
        return next((s.classes for s in self.datasets().values() if s.classes is not None), None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a full sample, (C, *space)."""
        return tuple(self.full.shape)

    def datasets(self) -> dict[str, Dataset]:
        """Every dataset by a name for reports."""
        named: dict[str, Dataset | None] = {"full": self.full, "full (held out)": self.held_out, "test": self.test}
        named["oracle"] = self.oracle
        for path, v in self.every_view().items():
            if v.owner is None:
                named |= {f"view {path}": v.train, f"view {path} (held out)": v.held_out}
        return {name: dataset for name, dataset in named.items() if dataset is not None}

    def every_view(self) -> dict[str, ViewData]:
        """Every view by its path, those inside others too."""
        return dict(every_view(self.views))

    def inner(self, name: str) -> Problem:
        """A view's own problem, in which its samples are the full ones."""
        v = self.views[name]
        assert v.train is not None
        assert v.held_out is not None
        return Problem(v.train, v.held_out, v.views)

    def unusable(self) -> list[dict[str, str]]:
        """Files that were left out, and why."""
        return report_problems(self.datasets())

    def fingerprint(self) -> str:
        """Hexadecimal digits that change whenever any of the data does."""
        said = {name: dataset.fingerprint() for name, dataset in self.datasets().items()}
        for path, v in self.every_view().items():
            if v.pretrained is not None and v.owner is None:
                said[f"view {path} (pretrained)"] = fingerprint(v.pretrained)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def every_view(views: Mapping[str, ViewData]) -> list[tuple[str, ViewData]]:
    """Every view with its path, the outer ones before the inner ones."""
    queue = list(views.items())
    for path, v in queue:  # grows: breadth first
        queue += [(f"{path}.{name}", inner) for name, inner in v.views.items()]
    return queue


def in_memory(
    dataset: Dataset, scale: float = 1.0, view: View | None = None, full: tuple[int, ...] | None = None
) -> SampleSet:
    """All samples of a (small) dataset at once, in view coordinates; masked-out coordinates are 0."""
    x, label, mask = dataset.batch(range(len(dataset)))
    if mask is None and view is not None and full is not None:
        fixed = view.mask(full) if view.is_fixed else None
        mask = None if fixed is None else fixed.expand(len(x), *fixed.shape).clone()
    x = x * scale
    return SampleSet(x if mask is None else x * mask, label, mask, dataset.positions(range(len(dataset))))


def hold_out(dataset: Dataset, count: int, seed: int, at: str) -> tuple[Subset, Subset]:
    """`count` samples to hold out, and the rest to train on; windows of one recording stay together.

    Raises:
        BootdiffError: nothing is left to train on, because windows overlap.
    """
    held, train = split_by_recording(dataset, [count, None], seed)
    if not held or not train:
        raise BootdiffError(
            f"{at}: {dataset.where}: with {count} of {len(dataset)} windows held out, all others overlap with them; "
            "bring more recordings, or a larger stride"
        )
    return Subset(dataset, held), Subset(dataset, train)


def partial_data(
    through: View,
    dataset: Dataset,
    full: Sequence[int],
    at: str,
    *,
    full_samples: Dataset | None = None,
    around: tuple[str, Sequence[int]] | None = None,
    offsets: torch.Tensor | None = None,
) -> Dataset:
    """A view's files, made fit for training: sizes, masks, rates and positions checked.

    Args:
        through: the view of the full samples, with the scale of these files.
        full: shape of a full sample.
        at: what messages call the view.
        full_samples: the full samples, whose rate these files must match; None: not checked.
        around: name and sample shape of the view that this one is inside; None: it is of the full samples.
        offsets: where each file lies, (n, view.n_offsets), for a position-conditioned view.

    Raises:
        BootdiffError: files of a different size than the view gives, masks that are missing or superfluous, recordings
            of a different rate or range of values, offsets that do not fit.
    """
    shape = tuple(full)
    _check(through, dataset, around, shape, at)
    if full_samples is not None:
        check_same_range(dataset, full_samples.units, f"{at}.data")
        check_rate(dataset, full_samples, through.pace(shape), f"{at}.data")
    dataset = _masked_as(through, dataset, shape, at)
    if through.position_conditioned and not dataset.position_conditioned:
        dataset = WithPositions(dataset, through, shape, offsets)
    return dataset


def _check(
    through: View, dataset: Dataset, around: tuple[str, Sequence[int]] | None, shape: tuple[int, ...], at: str
) -> None:
    wanted = tuple(through.shape(shape))
    if tuple(dataset.shape) != wanted:
        of = f"full samples of {_by(shape)}"
        if around is not None:
            of = f"samples of {around[0]}, {_by(around[1])},"
        raise BootdiffError(
            f"{at}: its files are {_by(dataset.shape)} ({axes_of(dataset.shape)}), but {of} seen through this "
            f"view are {_by(wanted)} ({axes_of(wanted)}); correct the view's settings or the files in {dataset.where}"
        )
    if through.masked and not through.is_fixed and not dataset.masked:
        raise BootdiffError(
            f"{at}: a random mask is known only from masks beside the files: set {at}.data.masks "
            f"to true and put NAME.mask.png beside NAME.png; or to alpha, where what is transparent is not observed; "
            f"or, where NaN means not observed, set {at}.data.missing to mask"
        )
    if dataset.masked and not through.masked:
        raise BootdiffError(
            f"{at}: its files have masks, but this view hides nothing: add {{kind: random_mask}} to the view, "
            "or leave masks and missing out"
        )


def check_rate(dataset: Dataset, full: Dataset, pace: float | None, at: str) -> None:
    """Raises BootdiffError where recordings do not run as fast as the full ones, `pace` of whose steps are one of
    theirs; unknown rates, as of folders of frames and arrays, pass."""
    if pace is None or dataset.rate is None or full.rate is None:
        return
    wanted, unit = full.rate / pace, "frames per second" if dataset.kind == "video" else "values per second"
    if abs(dataset.rate - wanted) > 0.005 * wanted:
        how = f"say {at}.fps: {wanted:.5g} to resample them" if dataset.kind == "video" else "resample them"
        through = f", so {wanted:.5g} through this view" if pace != 1 else ""
        raise BootdiffError(
            f"{at}: the recordings in {dataset.where} have {dataset.rate:.5g} {unit}, full ones have {full.rate:.5g}"
            f"{through}; {how}, or correct the view"
        )


def _masked_as(through: View, dataset: Dataset, shape: tuple[int, ...], at: str) -> Dataset:
    """The dataset with masks as the view has them: hiding what it hides in every file, with as many channels."""
    if not dataset.masked:
        return dataset
    drawn = through.draw(shape, torch.Generator().manual_seed(0)).mask(shape)
    own = dataset.batch([0])[2]
    assert drawn is not None
    assert own is not None
    if own.shape[1] > len(drawn):
        raise BootdiffError(
            f"{at}: in {dataset.where} other values are missing in each channel, but this view hides all "
            "channels at once; say view: {kind: random_mask, hide: channels}"
        )
    always = unmasked(through)
    # Simulated files were cut with the whole mask.
    fixed = always.mask(shape) if always.is_fixed and not isinstance(dataset, Simulated) else None
    wide = own.shape[1] < len(drawn)
    return WithMasks(dataset, channels=wide, fixed=fixed) if wide or fixed is not None else dataset


def with_common_classes(problem: Problem) -> Problem:
    """The same problem with one list of classes; datasets without labels stay so.

    Raises:
        BootdiffError: lists of classes that cannot be made one.
    """
    classes = common_classes(problem.datasets())

    def same(dataset: Dataset | None) -> Dataset | None:
        fits = classes is None or dataset is None or dataset.classes in (None, classes)
        return dataset if fits else Reclassed(dataset, classes)  # type: ignore[arg-type]

    for v in problem.every_view().values():
        v.train, v.held_out = same(v.train), same(v.held_out)
    full, held_out = same(problem.full), same(problem.held_out)
    assert full is not None
    assert held_out is not None
    return Problem(full, held_out, problem.views, same(problem.test), same(problem.oracle))


def mirrors(view: View, full: tuple[int, ...]) -> bool:
    """Whether the view of a mirrored sample is the mirrored view, so that its files may be flipped in training.

    Only images and videos are mirrored, along their width, never in time. Windows cut anywhere and masks drawn per file
    mirror in distribution; a fixed window or mask is tried out. A view that is conditioned on how far to the left it
    lies does not mirror.
    """
    if len(full) < 3:
        return False
    if isinstance(view, Compose | Observed):
        inner, outer = view.inner, view.outer
        if not view.is_fixed:
            return mirrors(inner, full) and mirrors(outer, inner.shape(full))
    elif not view.is_fixed:
        return not (view.position_conditioned and isinstance(view, Crop))
    x = torch.randn(1, *full, generator=torch.Generator().manual_seed(0))
    return torch.allclose(view(x.flip(-1)), view(x).flip(-1), atol=1e-6)


def fingerprint(denoiser: Denoiser) -> str:
    """Hexadecimal digits that change whenever the denoiser does, wherever it lies."""
    digest = hashlib.sha256(json.dumps(encode(denoiser), sort_keys=True).encode())
    for name, value in sorted(denoiser.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


def _by(shape: Any) -> str:
    return " x ".join(str(s) for s in shape)

"""How far a sampler should understate the noise to a learned denoiser, so that samples have the detail of real ones.

A denoiser with the least held-out loss need not give samples as sharp as real ones.  Where it has erred at one noise
level, what it is given at the next is not quite what it was trained on (exposure bias), and mostly there is less fine
structure in it; a learned denoiser takes that for smoothness and answers smoother yet.  So the solver asks for

    D(x, (1 - e) sigma)    in the place of    D(x, sigma),

which leaves a little of what would be taken for noise.  e costs nothing, and D itself, its loss and its weights stay as
they are.  It is measured, and 0 unless something is amiss: samples are drawn with e = 0, and where their `detail` falls
short of the full samples' by more than two standard errors, once more with e = `TRIED`, from the same noise.  The
logarithms l_k of the octaves' power against that of real ones are close to linear in e, l_k + g_k e, and used is

    e = argmin sum_k (l_k + g_k e)^2 = - sum_k g_k l_k / sum_k g_k^2,      within 0 and `MOST`.

Of an exact denoiser no detail is missing, and e is 0.

Sources: exposure bias of diffusion models and its cure by scaling: Ning et al. 2023, arXiv 2308.15321; by shifting the
time: Li et al. 2023, arXiv 2305.15583.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pydantic import ConfigDict, with_config
from torch import Tensor
from typing_extensions import TypedDict

from bootdiff.data import kind_of
from bootdiff.denoise import Denoiser
from bootdiff.method.settings import SamplingSettings
from bootdiff.moments.spectrum import Detail, detail, has_detail
from bootdiff.sampling import classes_of, sample
from bootdiff.training.forms import Cost

__all__ = ["MOST", "ShiftRecord", "count_of", "measure", "real_count", "record", "sentence"]

TRIED, MOST = 0.03, 0.06
"""The e that is tried, and the largest that is used."""
_REAL, _REAL_VALUES = 512, 2**25
_ERRORS = 2.0
_FEWEST = 4


@with_config(ConfigDict(strict=True, extra="forbid"))
class ShiftRecord(TypedDict):
    """The done.json of its stage; `detail`: ln of the detail at the e's of `tried`, `stderr` that of the first."""

    noise_shift: float
    tried: list[float]
    detail: list[float]
    stderr: float
    ledger: Cost


def count_of(shape: tuple[int, ...]) -> int:
    """How many samples are drawn for one value of e."""
    return 16 if kind_of(shape) == "video" else 48


def real_count(shape: tuple[int, ...]) -> int:
    """How many full samples are compared with, at most: as many as are quickly read."""
    return max(_FEWEST, min(_REAL, _REAL_VALUES // math.prod(shape)))


def measure(
    denoiser: Denoiser,
    real: Tensor,
    how: SamplingSettings,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, list[float], list[Detail]]:
    """e of this file.

    Args:
        denoiser: evaluated, not changed.
        real: full samples, (m, C, *space), in the denoiser's coordinates.
        how: solver and noise levels, as they will be used: few steps lose detail, too.
        seed: of the noise.
        progress: called as progress(steps done, of) for each value that is tried.

    Returns:
        e, the values tried, and the detail at each; 0 and nothing, where samples have no detail to compare or too few
        are real.

    Raises:
        BootdiffError: the denoiser returned NaN or an infinity.
    """
    if not has_detail(denoiser.shape) or len(real) < _FEWEST:
        return 0.0, [], []
    n, classes = count_of(denoiser.shape), classes_of(denoiser)
    label = [i % classes for i in range(n)] if classes else None
    levels: dict[str, Any] = asdict(how)

    def drawn(shift: float) -> Detail:
        own = levels | {"noise_shift": shift}
        return detail(sample(denoiser, n, seed=seed, label=label, progress=progress, **own), real, how.sigma_min)

    tried, found = [0.0], [drawn(0.0)]
    if found[0].log > -_ERRORS * found[0].stderr:
        return 0.0, tried, found
    tried, found = [*tried, TRIED], [*found, drawn(TRIED)]
    missing = [math.log(v) for v in found[0].octaves]
    gain = [(math.log(v) - m) / TRIED for v, m in zip(found[1].octaves, missing)]
    shift = -sum(g * m for g, m in zip(gain, missing)) / max(sum(g * g for g in gain), 1e-12)
    return round(min(max(shift, 0.0), MOST), 4), tried, found


def record(shift: float, tried: list[float], found: list[Detail], ledger: dict[str, Any]) -> dict[str, Any]:
    """As a `ShiftRecord`."""
    stderr = found[0].stderr if found else 0.0
    return {"noise_shift": shift, "tried": tried, "detail": [d.log for d in found], "stderr": stderr, "ledger": ledger}


def sentence(name: str, shift: float, tried: list[float], found: list[Detail]) -> str:
    """What was found, for people.

    >>> sentence("full-shift", 0.02, [0.0, 0.03], [Detail(-0.3, 0.05, []), Detail(0.15, 0.05, [])])
    "full-shift: samples have 74 ± 4 % of the full samples' fine detail; the noise is understated by 2.0 % to mend that"
    >>> sentence("full-shift", 0.0, [0.0], [Detail(-0.03, 0.05, [])])
    "full-shift: samples have 97 ± 5 % of the full samples' fine detail; nothing is to be mended"
    """
    ratio = 100 * math.exp(found[0].log)
    end = "nothing is to be mended"
    if len(tried) > 1:
        end = f"the noise is understated by {100 * shift:.1f} % to mend that" if shift else "no remedy was found"
    return f"{name}: samples have {ratio:.0f} ± {ratio * found[0].stderr:.0f} % of the full samples' fine detail; {end}"

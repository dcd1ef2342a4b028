"""What is regressed on held-out samples: which views add anything, their gains, the stack's weights.

Each is the regression of `weights`, of a different target on other candidates:

    screen      x0 - D_full on A_i^T (d_i - A_i D_full),    weights >= 0; a view that does not lower the mean over the
                                                            levels by `gains.screen` standard errors is left out
    gains       x0 - b on A_i^T (d_i - A_i b)
    kappa       x0 - V on D_k - V,                          weights >= 0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bootdiff.denoise import Denoiser
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.settings import GainSettings
from bootdiff.method.validation import SampleSet, Validator
from bootdiff.method.weights import Weights, fit_weights

__all__ = ["DRAWS", "gains", "kappa", "screen_views"]

DRAWS = 4
"""Noise draws per held-out sample and level, of the screening and of the stack's weights."""


def screen_views(
    composite: CompositeDenoiser,
    full_only: Denoiser,
    samples: SampleSet,
    how: GainSettings,
    levels: Sequence[float],
    seed: int,
    tau: float = 0.0,
    tick: Callable[[int, int], None] | None = None,
) -> Weights:
    """Weights of the views' evidence beside the full-only denoiser, on held-out samples.

    Against the prior even an unrelated view carries information (that images are smooth, say).  A view that adds
    nothing to what the full samples alone teach is left out.  It is one question per view, asked of all noise levels
    together: level by level, twenty held-out samples are too few to see a faint improvement.
    """
    validator = Validator(samples, composite, levels, DRAWS, seed=seed, tau=tau, tick=tick)
    return fit_weights(
        validator.evidence_moments(full_only),
        levels,
        how.folds,
        how.widths,
        nonnegative=True,
        prune=how.screen,
        joint=True,
    )


def gains(
    composite: CompositeDenoiser,
    samples: Sequence[SampleSet],
    how: GainSettings,
    levels: Sequence[float],
    seed: int,
    tau: float = 0.0,
    tick: Callable[[int, int], None] | None = None,
) -> Weights:
    """lambda_i, on all samples together that no view was trained on."""
    labels = [s.label for s in samples]
    label = None if any(v is None for v in labels) else torch.cat(labels)  # type: ignore[arg-type]
    everything = SampleSet(torch.cat([s.x for s in samples]), label)
    validator = Validator(everything, composite, levels, how.draws, seed=seed, tau=tau, tick=tick)
    return fit_weights(validator.evidence_moments(), levels, how.folds, how.widths, prune=how.prune)


def kappa(validator: Validator, experts: Sequence[Denoiser], how: GainSettings, prune: float) -> Weights:
    """kappa_k of the experts; `how` gives the widths of the smoothing."""
    moments = validator.residual_moments(experts)
    return fit_weights(moments, validator.levels, smooth=how.widths, nonnegative=True, prune=prune)

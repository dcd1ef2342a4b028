"""What is regressed on held-out samples: which views know anything new, their gains, the stack's weights.

Each is the regression of `gains.py`, of another target on other candidates:

    news        x0 - D_full on A_i^T (d_i - A_i D_full),    weights >= 0; a view that does not lower the mean over the
                                                            levels by `gains.news` standard errors is left out
    gains       x0 - b on A_i^T (d_i - A_i b)
    kappa       x0 - V on D_k - V,                          weights >= 0
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bootdiff.denoise import Denoiser
from bootdiff.method.composite import CompositeDenoiser, SnapshotsByNoiseLevel
from bootdiff.method.losses import SampleSet, Validator
from bootdiff.method.weights import Weights, fit_weights
from bootdiff.recipe.schema import Recipe

__all__ = ["gains", "kappa", "news"]


def news(
    composite: CompositeDenoiser, full_only: Denoiser, samples: SampleSet, recipe: Recipe, seed: int, tau: float = 0.0
) -> Weights:
    """Weights of the views' evidence beside the full-only denoiser, on held-out samples.

    Against the white base even an unrelated view has something to say (that pictures are smooth, say).  A view that
    adds nothing to what the full samples alone teach is left out.  It is one question per view, asked of all noise
    levels together: level by level, twenty held-out samples are too few to see faint news that are there.
    """
    held_out = Validator(samples, composite, recipe.levels, 4, seed=seed, tau=tau)
    moments, how = held_out.evidence_moments(full_only), recipe.gains
    return fit_weights(moments, recipe.levels, how.folds, _widths(recipe), nonnegative=True, prune=how.news, joint=True)


def gains(
    composite: CompositeDenoiser, samples: Sequence[SampleSet], recipe: Recipe, seed: int, tau: float = 0.0
) -> Weights:
    """lambda_i, on all samples together that no view was trained on."""
    labels = [s.label for s in samples]
    label = None if any(v is None for v in labels) else torch.cat(labels)  # type: ignore[arg-type]
    everything, how = SampleSet(torch.cat([s.x for s in samples]), label), recipe.gains
    held_out = Validator(everything, composite, recipe.levels, how.draws, seed=seed, tau=tau)
    return fit_weights(held_out.evidence_moments(), recipe.levels, how.folds, _widths(recipe), prune=how.prune)


def kappa(held_out: Validator, experts: Sequence[SnapshotsByNoiseLevel], recipe: Recipe, prune: float) -> Weights:
    """kappa_k of the experts; one for all of them where the recipe says so."""
    moments = held_out.residual_moments(experts)
    if recipe.residual.kappa == "single":
        total = type(moments)(
            moments.gram.sum((-1, -2))[..., None, None], moments.cross.sum(-1)[..., None], moments.power
        )
        w = fit_weights(total, recipe.levels, smooth=_widths(recipe), nonnegative=True, prune=0.0)
        w.values = w.values.expand(-1, len(experts)).contiguous()
        return w
    return fit_weights(moments, recipe.levels, smooth=_widths(recipe), nonnegative=True, prune=prune)


def _widths(recipe: Recipe) -> tuple[float, ...]:
    smooth = recipe.gains.smooth
    return (0.0, smooth, 2 * smooth) if smooth else (0.0,)

"""The claims of the paper (Ma 2025, arXiv 2505.11825) as experiments: each a function that says whether it holds."""

from __future__ import annotations

from collections.abc import Callable

from experiments.theory.claims.base import Curve, Panel, Result
from experiments.theory.claims.combining import dissimilar_view, equivalent_samples, several_views
from experiments.theory.claims.identity import information_identity
from experiments.theory.claims.limits import bounds_hold
from experiments.theory.claims.networks import networks_on_a_mixture
from experiments.theory.claims.regularization import proportionality, risk_against_n, unregularized

__all__ = ["EXPERIMENTS", "Curve", "Panel", "Result"]

EXPERIMENTS: dict[int, Callable[..., Result]] = {
    1: information_identity,
    2: unregularized,
    3: risk_against_n,
    4: proportionality,
    5: equivalent_samples,
    6: dissimilar_view,
    7: several_views,
    8: bounds_hold,
    9: networks_on_a_mixture,
}
"""number -> experiment(fast=False, done=None); `done(n, of)` is called with how far it is."""

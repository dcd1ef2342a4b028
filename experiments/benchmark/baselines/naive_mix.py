"""Naive mix: partial data brought to full shape and treated as if it were clean.

What happens to a data set that nobody looks at (the opponent "all data" of Daras et al. 2025, arXiv 2506.10038, section
5).  Different from plain practice: the full samples are drawn more often than they are there, a tuned share.
"""

from __future__ import annotations

from bootdiff.denoise import Denoiser
from bootdiff.method.stages import Bootstrap
from experiments.benchmark.baselines.base import Method, one_stage, training_of
from experiments.benchmark.baselines.mixing import MixedObjective, mixture_bench, placed

__all__ = ["NAIVE_MIX", "naive_mix"]


def naive_mix(b: Bootstrap, flops: float, share: float = 0.5) -> Denoiser:
    """`share` of the samples drawn are full ones."""
    bench = mixture_bench(b, share)
    objective = MixedObjective(b.no_views(bench.prior), training_of(b).noise)
    return one_stage(b, "naive_mix", bench, flops, objective=objective, parents=["naive_mix", share])


NAIVE_MIX = Method(naive_mix, ({}, {"nets": "narrow"}, {"share": 0.2}), placed)

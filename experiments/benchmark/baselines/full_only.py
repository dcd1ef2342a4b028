"""Full-only training, and the oracle that has all data in full: what every other method lies between.

The two are the same method on other data: EDM (Karras et al. 2022, arXiv 2206.00364) with the recipe's backbones, each
stopped per noise level on the held-out samples and stacked.  Different from the paper: stopping, stacking, small
networks.
"""

from __future__ import annotations

from dataclasses import replace

from bootdiff.denoise import Denoiser
from bootdiff.method.stages import Bootstrap
from bootdiff.method.training_set import classes_in
from experiments.benchmark.baselines.base import Method, one_stage

__all__ = ["FULL_ONLY", "ORACLE", "full_only", "oracle"]


def full_only(b: Bootstrap, flops: float) -> Denoiser:
    """The full samples alone."""
    return one_stage(b, "full_only", b.full_training_set(), flops)


def oracle(b: Bootstrap, flops: float) -> Denoiser:
    """All data in full; the held-out samples stay held out."""
    source = b.problem.oracle
    assert source is not None
    bench = replace(b.full_training_set(), train=source, classes=classes_in(source))
    return one_stage(b, "oracle", bench, flops)


# Few samples are memorized the sooner, the better they are fitted: Muon is no gain to them by itself.
FULL_ONLY = Method(full_only, ({"optimizer": "adamw"}, {}, {"optimizer": "adamw", "dropout": 0.1}), views=False)
ORACLE = Method(oracle, ({}, {"nets": "narrow"}, {"dropout": 0.1}), views=False)

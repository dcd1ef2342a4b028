"""Mix with a corruption label: the network is told which kind of file it sees, and asked for full samples.

Augmentation conditioning (Karras et al. 2022, arXiv 2206.00364, appendix F.2; Jun et al. 2020, "Distribution
augmentation for generative modeling", ICML) and, for thumbnails, size conditioning (Podell et al. 2023, SDXL, arXiv
2307.01952, section 2.2).  Different from SDXL: every kind has one size here, so an embedding per kind takes the place
of the embedding of the size; "full" is the embedding of "no class", so sampling needs no label.
"""

from __future__ import annotations

from bootdiff.denoise import Denoiser
from bootdiff.method.stages import Bootstrap
from experiments.benchmark.baselines.base import Method, one_stage, training_of
from experiments.benchmark.baselines.mixing import MixedObjective, mixture_bench, placed

__all__ = ["LABEL_MIX", "label_mix"]


def label_mix(b: Bootstrap, flops: float, share: float = 0.5) -> Denoiser:
    """`share` of the samples drawn are full ones."""
    bench = mixture_bench(b, share, told=True)
    objective = MixedObjective(b.no_views(bench.prior), training_of(b).noise, told=True)
    return one_stage(b, "label_mix", bench, flops, objective=objective, parents=["label_mix", share])


LABEL_MIX = Method(label_mix, ({}, {"nets": "narrow"}, {"share": 0.2}), placed)

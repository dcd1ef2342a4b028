"""Sources of stored samples and stateless batches of them."""

from __future__ import annotations

from bootdiff.data.arrays import Arrays, Digits
from bootdiff.data.base import (
    Batches,
    Problem,
    Sample,
    Source,
    Subset,
    evenly,
    measure,
    rank_slice,
    report_problems,
    split,
)
from bootdiff.data.classes import Reclassed, common_classes
from bootdiff.data.hf import HFDataset
from bootdiff.data.images import Images
from bootdiff.data.opening import open_source
from bootdiff.data.simulate import CORRUPTIONS, Simulated

__all__ = [
    "CORRUPTIONS",
    "Arrays",
    "Batches",
    "Digits",
    "HFDataset",
    "Images",
    "Problem",
    "Reclassed",
    "Sample",
    "Simulated",
    "Source",
    "Subset",
    "common_classes",
    "evenly",
    "measure",
    "open_source",
    "rank_slice",
    "report_problems",
    "split",
]

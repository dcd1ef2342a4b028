"""Sources of stored samples and stateless batches of them."""

from __future__ import annotations

from bootdiff.data.batches import Batches, rank_slice
from bootdiff.data.classes import Reclassed, common_classes
from bootdiff.data.dataset import Dataset, Sample, Span, Subset, UnusableFile, spaced_indices, split, split_by_recording
from bootdiff.data.kinds import KINDS, axes_of, kind_of
from bootdiff.data.open import open_dataset
from bootdiff.data.readers.arrays import Arrays, Digits
from bootdiff.data.readers.hf import HFDataset
from bootdiff.data.readers.images import Images
from bootdiff.data.readers.recordings import Recordings, Windowed
from bootdiff.data.readers.signals import Signals
from bootdiff.data.readers.videos import Videos
from bootdiff.data.simulate import CORRUPTIONS, Simulated
from bootdiff.data.statistics import measure, report_problems
from bootdiff.data.units import Units
from bootdiff.data.widened_masks import WithMasks

__all__ = [
    "CORRUPTIONS",
    "KINDS",
    "Arrays",
    "Batches",
    "Dataset",
    "Digits",
    "HFDataset",
    "Images",
    "Reclassed",
    "Recordings",
    "Sample",
    "Signals",
    "Simulated",
    "Span",
    "Subset",
    "Units",
    "UnusableFile",
    "Videos",
    "Windowed",
    "WithMasks",
    "axes_of",
    "common_classes",
    "kind_of",
    "measure",
    "open_dataset",
    "rank_slice",
    "report_problems",
    "spaced_indices",
    "split",
    "split_by_recording",
]

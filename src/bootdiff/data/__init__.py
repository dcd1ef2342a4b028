"""Sources of stored samples and stateless batches of them."""

from __future__ import annotations

from bootdiff.data.arrays import Arrays, Digits
from bootdiff.data.base import Problem, Sample, Source, Span, Subset, divide, evenly, split
from bootdiff.data.batches import Batches, rank_slice
from bootdiff.data.classes import Reclassed, common_classes
from bootdiff.data.hf import HFDataset
from bootdiff.data.images import Images
from bootdiff.data.kinds import KINDS, axes_of, kind_of
from bootdiff.data.measuring import measure, report_problems
from bootdiff.data.opening import open_source
from bootdiff.data.recordings import Recordings, Windowed
from bootdiff.data.signals import Signals
from bootdiff.data.simulate import CORRUPTIONS, Simulated
from bootdiff.data.units import Units
from bootdiff.data.videos import Videos
from bootdiff.data.widened import Widened

__all__ = [
    "CORRUPTIONS",
    "KINDS",
    "Arrays",
    "Batches",
    "Digits",
    "HFDataset",
    "Images",
    "Problem",
    "Reclassed",
    "Recordings",
    "Sample",
    "Signals",
    "Simulated",
    "Source",
    "Span",
    "Subset",
    "Units",
    "Videos",
    "Widened",
    "Windowed",
    "axes_of",
    "common_classes",
    "divide",
    "evenly",
    "kind_of",
    "measure",
    "open_source",
    "rank_slice",
    "report_problems",
    "split",
]

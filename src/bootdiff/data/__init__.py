"""Data sets of stored samples, the doors to them, and stateless batches of them.

Names are handed on from the modules that define them, each on first use: the recipe reads `data.options` without
importing torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bootdiff.data.batches import Batches as Batches
    from bootdiff.data.batches import rank_slice as rank_slice
    from bootdiff.data.dataset import Dataset as Dataset
    from bootdiff.data.dataset import Sample as Sample
    from bootdiff.data.dataset import Span as Span
    from bootdiff.data.dataset import UnusableFile as UnusableFile
    from bootdiff.data.dataset import spaced_indices as spaced_indices
    from bootdiff.data.dataset import split as split
    from bootdiff.data.dataset import split_by_recording as split_by_recording
    from bootdiff.data.kinds import KINDS as KINDS
    from bootdiff.data.kinds import axes_of as axes_of
    from bootdiff.data.kinds import kind_of as kind_of
    from bootdiff.data.labels import common_classes as common_classes
    from bootdiff.data.mixture import Mixture as Mixture
    from bootdiff.data.open import as_dataset as as_dataset
    from bootdiff.data.open import open_dataset as open_dataset
    from bootdiff.data.readers.arrays import Arrays as Arrays
    from bootdiff.data.readers.digits import load_digits as load_digits
    from bootdiff.data.readers.hf import HFDataset as HFDataset
    from bootdiff.data.readers.images import Images as Images
    from bootdiff.data.readers.letters import load_letters as load_letters
    from bootdiff.data.readers.offsets import read_offsets as read_offsets
    from bootdiff.data.readers.reader import Reader as Reader
    from bootdiff.data.readers.signals import Signals as Signals
    from bootdiff.data.readers.videos import Videos as Videos
    from bootdiff.data.simulate import CORRUPTIONS as CORRUPTIONS
    from bootdiff.data.simulate import Simulated as Simulated
    from bootdiff.data.statistics import measure as measure
    from bootdiff.data.statistics import report_notes as report_notes
    from bootdiff.data.statistics import report_problems as report_problems
    from bootdiff.data.transforms import Mapped as Mapped
    from bootdiff.data.transforms import Reclassed as Reclassed
    from bootdiff.data.transforms import Subset as Subset
    from bootdiff.data.transforms import Windowed as Windowed
    from bootdiff.data.transforms import WithMasks as WithMasks
    from bootdiff.data.transforms import WithPositions as WithPositions
    from bootdiff.data.units import Units as Units

# public name -> module that defines it
_HOME = {
    name: f"bootdiff.data.{module}"
    for module, names in {
        "batches": ("Batches", "rank_slice"),
        "dataset": (
            *("Dataset", "Sample", "Span", "UnusableFile"),
            *("spaced_indices", "split", "split_by_recording"),
        ),
        "kinds": ("KINDS", "axes_of", "kind_of"),
        "labels": ("common_classes",),
        "mixture": ("Mixture",),
        "open": ("as_dataset", "open_dataset"),
        "readers.arrays": ("Arrays",),
        "readers.digits": ("load_digits",),
        "readers.letters": ("load_letters",),
        "readers.hf": ("HFDataset",),
        "readers.images": ("Images",),
        "readers.offsets": ("read_offsets",),
        "readers.reader": ("Reader",),
        "readers.signals": ("Signals",),
        "readers.videos": ("Videos",),
        "simulate": ("CORRUPTIONS", "Simulated"),
        "statistics": ("measure", "report_notes", "report_problems"),
        "transforms": ("Mapped", "Reclassed", "Subset", "Windowed", "WithMasks", "WithPositions"),
        "units": ("Units",),
    }.items()
    for name in names
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'bootdiff.data' has no attribute {name!r}; it hands on {', '.join(__all__)}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value

"""Units, sampling rate and column names of the data.

A run keeps them in data.json, so that samples are written in the data's own units wherever the run's folder is moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired

from pydantic import ConfigDict, with_config
from torch import Tensor
from typing_extensions import TypedDict

from bootdiff.data import Dataset
from bootdiff.data.units import Units
from bootdiff.training.run import Run

__all__ = ["DATA", "DataInfo", "DataNote", "data_note"]

DATA = "data.json"
_STRICT = ConfigDict(strict=True, extra="forbid")


@with_config(_STRICT)
class _Units(TypedDict):
    offset: list[float]
    scale: list[float]
    standardized: bool


@with_config(_STRICT)
class _Meaning(TypedDict):
    """`DataInfo.record`. values: not said by runs of earlier versions."""

    units: _Units | None
    values: NotRequired[str | None]
    rate: float | None
    columns: list[str] | None


@with_config(_STRICT)
class DataNote(TypedDict):
    """data.json."""

    shape: list[int]
    classes: list[str] | None
    counts: dict[str, int]
    meaning: _Meaning


def data_note(folder: str | Path) -> DataNote | None:
    """The data.json of a run; None for what is no run, or one that was made from Python.

    Raises:
        BootdiffError: lost or damaged: without it samples would be written in other units.
    """
    folder = Path(folder)
    run = Run.read(folder) if any((folder / name).is_file() for name in ("run.json", "recipe.yaml")) else None
    if run is None or (not run.has_recipe and not (folder / DATA).is_file()):
        return None
    remedy = (
        "restore it from a copy, or run the command that began the run again, which writes it anew; without it samples "
        "have no units"
    )
    note: DataNote = run.read_json(DATA, DataNote, remedy)
    return note


@dataclass(frozen=True)
class DataInfo:
    """How numbers are shown to people.

    units: of the stored coordinates; None: unknown. rate: frames or values per second. columns: names of the channels.
    """

    units: Units | None = None
    rate: float | None = None
    columns: list[str] | None = None

    @classmethod
    def of(cls, source: Dataset) -> DataInfo:
        """Of a dataset."""
        return cls(source.units, source.rate, source.columns)

    @classmethod
    def of_run(cls, folder: str | Path) -> DataInfo:
        """From the data.json of a run; empty of what has none (`data_note`, which raises)."""
        note = data_note(folder)
        return cls() if note is None else cls.from_record(note["meaning"])

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> DataInfo:
        """The inverse of `record`."""
        units = record["units"]
        if units is not None:
            # Runs of earlier versions do not say of which type the values were.
            units = replace(Units.from_config(units), values=record.get("values"))
        return cls(units, record["rate"], record["columns"])

    def record(self) -> dict[str, Any]:
        """As plain JSON values."""
        units = None if self.units is None else self.units.config()
        values = None if self.units is None else self.units.values
        return {"units": units, "values": values, "rate": self.rate, "columns": self.columns}

    @property
    def bytes(self) -> bool:
        """Whether original values are pixel levels 0..255 (assumed if the units are unknown)."""
        return self.units is None or self.units == Units.of_range(0, 255)

    def restore(self, x: Tensor) -> Tensor:
        """Samples (n, C, *space) in original units, float32; unchanged if these are unknown."""
        return x if self.units is None else self.units.restore(x, x.ndim - 2).float()

    def name(self, channel: int) -> str:
        """The name of a channel."""
        return f"column {channel + 1}" if self.columns is None else self.columns[channel]

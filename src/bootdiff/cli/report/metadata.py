"""What the numbers of samples mean to people: units, values per second, names of the columns.

A run keeps it in data.json, so that samples are written in the data's own units wherever the run's folder is taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bootdiff.data import Dataset
from bootdiff.data.units import Units

__all__ = ["DataInfo"]


@dataclass(frozen=True)
class DataInfo:
    """units: of the stored coordinates; None where nothing is known. rate: frames or values per second. columns: names
    of the channels."""

    units: Units | None = None
    rate: float | None = None
    columns: list[str] | None = None

    @classmethod
    def of(cls, source: Dataset) -> DataInfo:
        """As a source says."""
        return cls(source.units, source.rate, source.columns)

    @classmethod
    def of_run(cls, folder: str | Path) -> DataInfo:
        """As the data.json of a run says; nothing where there is none."""
        note = Path(folder) / "data.json"
        said = json.loads(note.read_text(encoding="utf-8")).get("meaning") if note.is_file() else None
        return cls() if said is None else cls.from_record(said)

    @classmethod
    def from_record(cls, said: Mapping[str, Any]) -> DataInfo:
        """From what `record` gave."""
        units = said["units"]
        return cls(None if units is None else Units.from_config(units), said["rate"], said["columns"])

    def record(self) -> dict[str, Any]:
        """As JSON can say it."""
        units = None if self.units is None else self.units.config()
        return {"units": units, "rate": self.rate, "columns": self.columns}

    @property
    def bytes(self) -> bool:
        """Whether original values are pixel levels 0..255 (taken for granted where nothing is known)."""
        return self.units is None or self.units == Units.of_range(0, 255)

    def restore(self, x: Tensor) -> Tensor:
        """Samples (n, C, *space) in original units, float32; as they are where these are not known."""
        return x if self.units is None else self.units.restore(x, x.ndim - 2).float()

    def name(self, channel: int) -> str:
        """What a channel is called."""
        return f"column {channel + 1}" if self.columns is None else self.columns[channel]

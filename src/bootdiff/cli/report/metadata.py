"""Units, sampling rate and column names of the data.

A run keeps them in data.json, so that samples are written in the data's own units wherever the run's folder is moved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bootdiff.data import Dataset
from bootdiff.data.units import Units

__all__ = ["DataInfo"]


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
        """From the data.json of a run; empty without one."""
        path = Path(folder) / "data.json"
        record = json.loads(path.read_text(encoding="utf-8")).get("meaning") if path.is_file() else None
        return cls() if record is None else cls.from_record(record)

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

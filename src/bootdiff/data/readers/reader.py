"""What every reader of files is: the suffixes that it reads, its options, and how it opens a path."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from bootdiff.data.dataset import Dataset
from bootdiff.data.options import ReaderOptions
from bootdiff.errors import BootdiffError

__all__ = ["Reader"]


class Reader(ABC):
    """One way in which samples lie on disk.

    Attributes: ``what`` it reads, for messages; ``kinds`` of samples it can give; ``suffixes`` of the files it reads,
    in small letters; ``folder_suffixes``, those of files that leave no doubt about the kind of the folder they lie in;
    ``options``, the dataclass of what it understands; ``channels`` of pictures that can be asked for.
    """

    what: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    suffixes: ClassVar[tuple[str, ...]] = ()
    folder_suffixes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[type[ReaderOptions]]
    channels: ClassVar[tuple[int, ...]] = (1, 3)

    @abstractmethod
    def open(self, path: Any, options: Any) -> Dataset:
        """The samples at a path, a name where it is none of files. options: an instance of ``self.options``.

        Raises BootdiffError, saying what is wrong at which path.
        """

    def refuse_names(self, path: Path, options: Any) -> None:
        """BootdiffError where options name arrays of labels or masks, which files in folders do not have."""
        if isinstance(options.labels, str):
            raise BootdiffError(f"{path}: has no array of labels, sub-folders are the classes; write labels: true")
        masks = getattr(options, "masks", False)
        if isinstance(masks, str) and (masks, self.kinds) != ("alpha", ("image",)):
            raise BootdiffError(f"{path}: has no array of masks, they lie beside the files; write masks: true")

"""FLAC, Ogg (Vorbis, Opus), AIFF and MP3 through soundfile, window by window, as amplitudes: full scale is 1.

Lossy files may run a little beyond full scale; what does is refused as any other value out of range, unless a `range`
is declared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bootdiff.data.readers.decode import Undecodable
from bootdiff.data.readers.stacks import library

__all__ = ["AUDIO_SUFFIXES", "AudioFile"]

AUDIO_SUFFIXES = (".flac", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".mp3")
_PIECE = 1 << 20  # steps read at a time


class AudioFile:
    """A file as an array (L, C) of float64 that is read where it is asked for. ``rate``: values per second.

    Raises Undecodable for a file that cannot be read to its end, BootdiffError without soundfile.
    """

    dtype = np.dtype(np.float64)

    def __init__(self, path: Path, *, verify: bool = False) -> None:
        self.path, self._library = path, library("soundfile", path, "audio")
        try:
            info = self._library.info(str(path))
        except (self._library.SoundFileError, OSError) as error:
            raise Undecodable(f"cannot be read ({error}); it is damaged, cut short or no audio file") from None
        self.shape, self.rate = (int(info.frames), int(info.channels)), float(info.samplerate)
        if not info.frames:
            raise Undecodable("holds no samples")
        for start in range(0, self.shape[0] if verify else 0, _PIECE):
            self[start : start + _PIECE]

    def __getitem__(self, at: slice) -> np.ndarray:
        start, stop, _ = at.indices(self.shape[0])
        try:
            read: Any = self._library.read(str(self.path), start=start, stop=stop, dtype="float64", always_2d=True)
        except (self._library.SoundFileError, OSError) as error:
            raise Undecodable(f"cannot be decoded after value {start} ({error})") from None
        if len(read[0]) != stop - start:
            raise Undecodable(f"is cut short: it ends at value {start + len(read[0])} of {self.shape[0]}")
        return read[0]

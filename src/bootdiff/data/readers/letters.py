"""Letters of the fonts that matplotlib ships, which need no files: an array data set like any other.

Letters and digits of the Latin, Greek, Cyrillic, Armenian and Georgian alphabets, without accents, in 21 fonts (DejaVu
Sans, Mono and Serif, STIX, Computer Modern), black on white: set in 124 pixels on 128 x 128, centred by their bounds,
averaged over 8 x 8 pixels. Of equal pictures one is kept. The fonts' licences are beside them in matplotlib.

They are the same pictures wherever fonts and FreeType are: `DRAWN` is their digest, and a set that was drawn otherwise
says so in its `notes`, which `check` and every run print.
"""

from __future__ import annotations

import hashlib
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bootdiff.data.dataset import Dataset
from bootdiff.data.options import EmbeddedOptions
from bootdiff.data.readers.arrays import Arrays
from bootdiff.data.readers.reader import Reader
from bootdiff.errors import BootdiffError

__all__ = ["ALPHABETS", "DRAWN", "FONTS", "LettersReader", "draw_letters", "load_letters"]

ALPHABETS = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN", "DIGIT")
"""The first word of a character's Unicode name: the classes of the data set."""

_WHOLE = tuple(
    f"{family}{style}"
    for family, styles in (
        ("DejaVuSans", ("", "-Bold", "-BoldOblique", "-Oblique")),
        ("DejaVuSansMono", ("", "-Bold", "-BoldOblique", "-Oblique")),
        ("DejaVuSerif", ("", "-Bold", "-BoldItalic", "-Italic")),
        ("STIXGeneral", ("", "Bol", "BolIta", "Italic")),
    )
    for style in styles
)
# Computer Modern's files are in an order of their own but for ASCII.
_ASCII = ("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10")
FONTS = (*_WHOLE, *_ASCII)
"""Names of the font files, in the order they are drawn."""

DRAWN = "d95be2decd0c4ee3d3f4a768c934179191a10c72b0c8750af39e080c1024bfa5"
"""SHA-256 of the pictures, in order, as drawn with the fonts of matplotlib 3.11 and Pillow 13."""

_SIZE, _SIDE, _BY, _MOST = 124, 128, 8, 122


def letter_of(code: int) -> str | None:
    """The alphabet of a character; None where it is no letter or digit of them, or is one with an accent.

    >>> letter_of(ord("g")), letter_of(0x436), letter_of(ord("é")), letter_of(ord("+"))
    ('LATIN', 'CYRILLIC', None, None)
    """
    char = chr(code)
    if unicodedata.category(char) not in ("Lu", "Ll", "Lo", "Nd") or unicodedata.decomposition(char):
        return None
    first = unicodedata.name(char, "").split(" ")[0]
    return first if first in ALPHABETS else None


@cache
def draw_letters() -> tuple[np.ndarray, np.ndarray]:
    """All pictures (n, 16, 16) uint8, 0 black, and the numbers of their alphabets (n,), in a fixed random order.

    Raises:
        BootdiffError: a font is missing or damaged.
    """
    pictures, alphabets = [], []
    for name in FONTS:
        font, codes = _font(name)
        for code in codes:
            alphabet = letter_of(code)
            if alphabet is None or (name in _ASCII and code > 127):
                continue
            left, top, right, bottom = font.getbbox(chr(code))
            if not (0 < right - left <= _MOST and 0 < bottom - top <= _MOST):
                continue  # nothing to see, or too large for the square
            picture = Image.new("L", (_SIDE, _SIDE), 255)
            corner = ((_SIDE - left - right) / 2, (_SIDE - top - bottom) / 2)
            ImageDraw.Draw(picture).text(corner, chr(code), fill=0, font=font)
            pictures.append(np.asarray(picture.reduce(_BY)))
            alphabets.append(ALPHABETS.index(alphabet))
    x = np.stack(pictures)
    kept = np.sort(np.unique(x.reshape(len(x), -1), axis=0, return_index=True)[1])
    order = kept[np.random.default_rng(0).permutation(len(kept))]
    return x[order], np.asarray(alphabets, np.int64)[order]


def _font(name: str) -> tuple[ImageFont.FreeTypeFont, list[int]]:
    """A font of matplotlib and the characters that it has."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    try:
        font = ImageFont.truetype(str(path), _SIZE, layout_engine=ImageFont.Layout.BASIC)
        return font, sorted(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError) as error:
        raise BootdiffError(
            f"{path}: letters are drawn in the fonts that matplotlib ships, and this one is missing or damaged "
            f"({error}); install matplotlib anew: pip install --force-reinstall --no-deps matplotlib"
        ) from None


def load_letters(part: str = "all", *, labels: bool = False, channels: int | None = None) -> Arrays:
    """The letters: 1 x 16 x 16, values 0 (black) to 255 (white), six classes (`ALPHABETS`, in lower case).

    part: "all", or "train" or "test" (the last 1,000).

    Raises BootdiffError for an unknown part, or where a font is missing or damaged.
    """
    if part not in ("all", "train", "test"):
        raise BootdiffError(f"letters: no part {part!r}; known parts: all, train, test")
    x, alphabets = draw_letters()
    rows = {"all": slice(None), "train": slice(-1000), "test": slice(-1000, None)}[part]
    data = Arrays(
        x[rows],
        labels=alphabets[rows] if labels else None,
        classes=[name.lower() for name in ALPHABETS] if labels else None,
        channels=channels,
        where="letters" if part == "all" else f"letters[{part}]",
    )
    if hashlib.sha256(x.tobytes()).hexdigest() != DRAWN:
        data.notes = [
            f"drawn otherwise than those of the published figures ({len(x):,} letters), by another version of "
            "matplotlib, Pillow or FreeType: results will differ a little"
        ]
    return data


class LettersReader(Reader):
    """The path "letters"."""

    what, kinds, options = "letters of matplotlib's fonts", ("image",), EmbeddedOptions

    def open(self, path: Path, options: EmbeddedOptions) -> Dataset:
        return load_letters(options.key or "all", labels=bool(options.labels), channels=options.channels)

"""The letters of matplotlib's fonts: the same pictures everywhere, or said; which characters; what goes wrong."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from bootdiff.data import Arrays, load_letters, open_dataset, report_notes
from bootdiff.data.readers import letters
from bootdiff.errors import BootdiffError


def test_the_pictures_are_the_published_ones():
    x, alphabets = letters.draw_letters()
    assert hashlib.sha256(x.tobytes()).hexdigest() == letters.DRAWN
    assert x.shape == (9604, 16, 16)
    assert x.dtype == np.uint8
    assert len(np.unique(x.reshape(len(x), -1), axis=0)) == len(x)
    assert np.bincount(alphabets).tolist() == [5032, 844, 1690, 858, 970, 210]
    # Ink on paper, centred: the border is nearly white, and no picture is empty.
    assert x[:, 0].mean() > 250
    assert x.reshape(len(x), -1).min(1).max() < 200


def test_a_letter_is_the_average_of_a_large_one():
    x, _ = letters.draw_letters()
    font = letters._font("DejaVuSans")[0]
    large = Image.new("L", (128, 128), 255)
    left, top, right, bottom = font.getbbox("R")
    ImageDraw.Draw(large).text(((128 - left - right) / 2, (128 - top - bottom) / 2), "R", fill=0, font=font)
    means = np.asarray(large, float).reshape(16, 8, 16, 8).mean((1, 3))
    assert np.abs(x - means).max((1, 2)).min() <= 0.5 + 1e-9


def test_parts_and_classes():
    everything, train, test = load_letters(), load_letters("train", labels=True), load_letters("test", labels=True)
    assert isinstance(open_dataset("letters"), Arrays)
    assert (len(everything), len(train), len(test)) == (9604, 8604, 1000)
    assert tuple(train.shape) == (1, 16, 16)
    assert train.classes == ["latin", "greek", "cyrillic", "armenian", "georgian", "digit"]
    assert everything.classes is None
    assert (everything[8604].x == test[0].x).all()
    assert float(everything.batch(range(500))[0].min()) == -1
    assert open_dataset("letters", key="test", labels=True, limit=50)[0].label == test[0].label
    assert everything.where == "letters"
    with pytest.raises(BootdiffError, match="no part 'valid'; known parts: all, train, test"):
        load_letters("valid")


def test_pictures_that_were_drawn_otherwise_say_so(monkeypatch):
    assert not load_letters().notes
    monkeypatch.setattr(letters, "DRAWN", "0" * 64)
    (said,) = report_notes({"full": open_dataset("letters", limit=100)})
    assert said.startswith("full: drawn otherwise than those of the published figures (9,604 letters)")


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_font_that_is_missing_or_damaged_is_named(monkeypatch, tmp_path, damage):
    import matplotlib

    folder = tmp_path / "fonts" / "ttf"
    folder.mkdir(parents=True)
    if damage == "damaged":
        (folder / "DejaVuSans.ttf").write_bytes(b"no font")
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(BootdiffError, match=r"DejaVuSans\.ttf: .* missing or damaged .* install matplotlib anew"):
        letters.draw_letters.__wrapped__()


def test_only_fonts_with_letters_are_used():
    for name in letters.FONTS:
        font, codes = letters._font(name)
        assert isinstance(font, ImageFont.FreeTypeFont)
        assert sum(letters.letter_of(code) is not None for code in codes) >= 62

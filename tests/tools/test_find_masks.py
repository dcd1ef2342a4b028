"""Overlays put on real pictures are found where they are, and none in pictures without."""

from __future__ import annotations

import numpy as np
import pytest

from bootdiff.tools.find_masks import find_overlay, find_text, usual_strokes


def patches(n=160, side=48, seed=0):
    """Cut from scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    photos, rng, out = load_sample_images().images, np.random.default_rng(seed), []
    for i in range(n):
        photo = photos[i % 2]
        top, left = (int(rng.integers(0, s - side)) for s in photo.shape[:2])
        out.append(photo[top : top + side, left : left + side].transpose(2, 0, 1))
    return np.stack(out).astype(np.float32) / 127.5 - 1


def digits():
    """Aligned, most pixels of the rim always black."""
    from sklearn.datasets import load_digits

    return load_digits().images[:, None].astype(np.float32) / 8 - 1


@pytest.fixture(scope="module")
def photos():
    return patches()


def laid(x, share, values):
    """Pictures under an overlay of `values` (C, H, W) with shares (H, W), as 8-bit files hold them; what is hidden."""
    y = np.round((x * (1 - share) + values * share) * 127.5 + 127.5).clip(0, 255)
    return (y / 127.5 - 1).astype(np.float32), share > 0.25


def logo(x, share, size=9, at=2):
    """A disc of two colours near a corner."""
    channels, height, width = x.shape[1:]
    rows, columns = np.mgrid[:height, :width] - at
    r = np.hypot(rows - (size - 1) / 2, columns - (size - 1) / 2)
    values = np.where(r < size / 4, 1.0, -1.0) * np.array([0.9, -0.3, 0.5])[:channels, None, None]
    return laid(x, share * (r < size / 2), values)


def band(x, share, rows=8):
    whole = np.zeros(x.shape[2:])
    whole[-rows:] = share
    return laid(x, whole, np.full(x.shape[1:], -0.8))


def box(x, share, value):
    whole = np.zeros(x.shape[2:])
    whole[12:26, 8:40] = share
    return laid(x, whole, np.full(x.shape[1:], value))


def letters(x, share):
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("L", x.shape[:1:-1])
    ImageDraw.Draw(page).text((4, 14), "STOCK", fill=255, font=ImageFont.load_default(15))
    return laid(x, share * np.asarray(page) / 255, np.ones(x.shape[1:]))


def captions(x):
    """Other text in one place in every picture: a flat band with white strokes."""
    rng = np.random.default_rng(0)
    y, hidden = band(x, 1.0, 10)
    for picture in y:
        picture[:, -9:-1] = np.where(rng.random((8, x.shape[3])) < 0.35, 0.95, picture[:, -9:-1])
    return y, hidden


def words(x):
    """A flat band with words of other lengths, which begin at its left."""
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(0)
    y, hidden = band(x, 1.0, 8)
    for picture in y:
        page = Image.new("L", (x.shape[3], 8))
        said = " ".join(rng.choice(["WHO", "IS", "IT", "COME", "HERE", "NO", "LATE", "GO"], 2))
        ImageDraw.Draw(page).text((1, -1), said, fill=255, font=ImageFont.load_default(7))
        picture[:, -8:] += (0.95 - picture[:, -8:]) * np.asarray(page) / 255
    return y, hidden


def frame(x):
    """A black frame around every picture."""
    share = np.ones(x.shape[2:])
    share[5:-5, 5:-5] = 0
    return laid(x, share, np.full(x.shape[1:], -0.97))


def iou(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


OVERLAYS = {
    "logo": lambda x: logo(x, 1.0),
    "logo, half": lambda x: logo(x, 0.5),
    "logo, faint": lambda x: logo(x, 0.35),
    "band": lambda x: band(x, 1.0),
    "band, half": lambda x: band(x, 0.5),
    "box, half": lambda x: box(x, 0.5, 0.9),
    "box, faint": lambda x: box(x, 0.35, 0.9),
    "box, gray": lambda x: box(x, 0.5, 0.0),
    "letters": lambda x: letters(x, 0.7),
    "captions": captions,
    "words": words,
    "frame": frame,
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_on_photographs_are_found(photos, name):
    y, hidden = OVERLAYS[name](photos)
    found = find_overlay(y)
    least = 0.7 if name == "letters" else 0.9
    assert iou(found.hidden, hidden) > least, found.by
    assert not found.left_out


def test_small_pictures_under_words():
    """The ground of the words is a fifth of the picture, and no background for that."""
    y, hidden = words(patches(400, 32))
    assert iou(find_overlay(y).hidden, hidden) > 0.95


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_found_in_photographs(seed):
    for n in (30, 160):
        found = find_overlay(patches(n, seed=seed))
        assert not found.hidden.any(), found.by


def test_aligned_samples_have_no_overlay_but_can_have_an_opaque_one():
    x = digits()
    found = find_overlay(x)
    assert not found.hidden.any(), found.by
    assert found.left_out  # their own rims would pass for a half-transparent one
    y, hidden = logo(x, 1.0, 3, 0)
    assert iou(find_overlay(y).hidden, hidden) > 0.9


def test_a_few_files_without_the_overlay_do_no_harm(photos):
    y, hidden = logo(photos, 1.0)
    y[::12] = photos[::12]
    assert iou(find_overlay(y).hidden, hidden) > 0.9


def test_too_few_pictures_are_refused(photos):
    with pytest.raises(ValueError, match="at least 16 images"):
        find_overlay(photos[:15])
    with pytest.raises(ValueError, match="at least 16 images"):
        find_overlay(photos[0])


# --- text that comes and goes


def subtitled(x, boxed, every=2, seed=0):
    """Lines of text in every second picture, with an outline or in a flat box; what is hidden in each."""
    from PIL import Image, ImageDraw, ImageFont

    rng, font = np.random.default_rng(seed), ImageFont.load_default(10)
    y, hidden = x.copy(), np.zeros((len(x), *x.shape[2:]), bool)
    height, width = x.shape[2:]
    for i in range(0, len(x), every):
        text = "".join(rng.choice(list("abdehkmnorstuwz ABEHKMNR"), 9)).strip()
        drawn = []
        for stroke in (0, 1):
            page = Image.new("L", (width, height))
            ImageDraw.Draw(page).text((width // 2, height - 8), text, 255, font, anchor="mm", stroke_width=stroke)
            drawn.append(np.asarray(page) / 255)
        rows, columns = (np.flatnonzero(drawn[1].any(a)) for a in (1, 0))
        at = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if boxed:
            at = np.s_[rows[0] - 2 : rows[-1] + 3, :]
            y[i][:, at[0]] = -0.8
        else:
            y[i] = y[i] * (1 - drawn[1]) - drawn[1]
        y[i] = y[i] * (1 - drawn[0]) + drawn[0]
        hidden[i][at] = True
    return y.astype(np.float32), hidden


@pytest.mark.parametrize(("boxed", "least"), [(True, 0.85), (False, 0.5)])
def test_subtitles_are_found_in_the_pictures_that_have_them(boxed, least):
    y, hidden = subtitled(patches(120, 64), boxed)
    usual = usual_strokes(y)
    found = np.stack([find_text(picture, usual) for picture in y])
    has = hidden.any((1, 2))
    assert found[has].any((1, 2)).mean() > 0.9
    assert found[~has].any((1, 2)).mean() < 0.05
    assert iou(found, hidden) > least
    assert (found & hidden).sum() / hidden.sum() > 0.8


def test_there_is_no_text_in_pictures_without():
    for x in (patches(100, 64), digits()[:300]):
        usual = usual_strokes(x)
        assert np.mean([find_text(picture, usual).any() for picture in x]) < 0.05

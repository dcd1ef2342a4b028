"""experiments.scripts.masks: what is laid over pictures, how finding it is scored, and its tables."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.scripts import masks
from experiments.scripts.results import ROOT


def test_iou():
    a, b = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool)
    assert masks.iou(a, b) == pytest.approx(1 / 3)
    assert masks.iou(a, a) == 1
    assert masks.iou(a & False, b & False) == 0


def test_an_overlay_is_a_blend_of_8_bits():
    x = masks.cuts(3, 32, seed=0)
    assert x.shape == (3, 3, 32, 32)
    assert np.abs(x).max() <= 1
    for name, lay in masks.overlays().items():
        y, hidden = lay(x)
        assert y.shape == x.shape, name
        assert hidden.any()
        np.testing.assert_allclose((y + 1) * 127.5, np.round((y + 1) * 127.5), atol=1e-4)
    y, hidden = masks.band(x, 0.5)
    assert hidden[:6].all()
    assert not hidden[6:].any()
    np.testing.assert_allclose(y[:, :, 6:], x[:, :, 6:], atol=1e-6)
    np.testing.assert_allclose(y[:, :, :6], 0.5 * x[:, :, :6] + 0.5 * 0.85, atol=1.01 / 255)


@pytest.mark.parametrize("boxed", [True, False])
def test_subtitles_are_in_every_second_picture(boxed):
    x = masks.cuts(6, 64, seed=0)
    y, hidden = masks.subtitled(x, boxed)
    assert hidden.any((1, 2)).tolist() == [True, False] * 3
    np.testing.assert_array_equal(y[1::2], x[1::2])
    assert not hidden[:, :32].any()
    assert y[0][:, hidden[0]].max() > x[0][:, hidden[0]].max()  # the words are white
    kept = ~hidden[:, None].repeat(3, 1)
    np.testing.assert_array_equal(y[kept], x[kept])


def test_the_tables_of_a_call(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "traffic.npz", test=rng.integers(0, 256, (8, 8, 32, 32, 3), dtype=np.uint8))
    masks.main(["--cuts", "24", "--traffic", str(tmp_path / "traffic.npz")])
    lines = capsys.readouterr().out.splitlines()
    names = list(masks.overlays())
    assert lines[0] == "| overlay | road cameras, 32 px, 16 frames | two photographs, 64 px, 24 cuts |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        *(f"| {name}" for name in names), "| none: pixels hidden", "| subtitles in a box",
        "| subtitles with an outline",
    ]  # fmt: skip
    assert all(line.count("|") == 4 for line in lines)
    cells = {line.split(" | ")[0][2:]: line.split(" | ")[2].rstrip(" |") for line in lines[2:]}
    assert cells["logo, 100%"] == cells["band, 50%"] == "1.00 (100%)"
    assert cells["none: pixels hidden"] == "0"
    assert cells["subtitles in a box"].startswith("100% found")


@pytest.mark.slow
def test_the_photographs_of_the_documents_are_as_they_say(capsys):
    """The last column of the table in docs/masks.md: the only one whose pictures come with scikit-learn."""
    masks.main([])
    lines = capsys.readouterr().out.splitlines()
    page = (ROOT / "docs" / "masks.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    start = next(k for k, row in enumerate(rows) if row[0] == "overlay")
    for line, row in zip(lines, rows[start:], strict=False):
        name, cell = (part.strip() for part in line.split("|")[1:-1])
        assert name == row[0]
        assert cell.startswith(row[-1])  # without the share found in vain, which the text gives

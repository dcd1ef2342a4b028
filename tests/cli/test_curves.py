"""losses.png: every curve is there and told from the others, legends hide nothing, and no plot is empty."""

from __future__ import annotations

import itertools

import pytest
from PIL import Image

from bootdiff.cli.report import curves

KINDS = ("view-small", "view-left", "full", "visible", "residual", "unregularized", "distilled", "oracle")


def rows(stage, steps=200, every=50):
    for step in range(every, steps + 1, every):
        yield {"stage": stage, "step": step, "loss": 1 / step}
        yield {"stage": stage, "step": step, "heldout": {"0.1": 0.5 + 1 / step, "1": 0.3, "4": None}}


RUNS = {
    "all arms": [row for kind in KINDS for net in ("unet", "local") for row in rows(f"{kind}-{net}")],
    "many views": [row for k in range(12) for row in rows(f"view-a-long-name-of-a-view-{k}-unet")],
    "very short": [row for kind in ("view-small", "full", "residual") for row in rows(f"{kind}-own", 4, 4)],
    "not held out yet": [row for row in rows("full-own") if "loss" in row],
    "one of them not yet": [
        row for row in [*rows("full-own"), *rows("view-a-own")] if "loss" in row or "f" in row["stage"][0]
    ],
}


@pytest.fixture(params=RUNS.values(), ids=RUNS)
def drawn(request, monkeypatch, tmp_path):
    """(rows, figure) of a run."""
    found = []
    monkeypatch.setattr(curves, "write_figure", lambda figure, path: found.append(figure))
    curves.loss_curves(request.param, tmp_path / "losses.png")
    (figure,) = found
    figure.canvas.draw()
    return request.param, figure


def visible(figure):
    return [axis for axis in figure.axes if axis.get_visible()]


def test_every_network_is_drawn_and_named(drawn):
    run, figure = drawn
    named = [text.get_text() for axis in visible(figure) if axis.get_legend() for text in axis.get_legend().get_texts()]
    assert len(named) == len({row["stage"] for row in run})
    points = sum(len(line.get_xdata()) for axis in visible(figure) for line in axis.get_lines())
    assert points == len(run)


def test_no_plot_is_empty_and_a_single_point_can_be_seen(drawn):
    _, figure = drawn
    for axis in visible(figure):
        assert axis.get_lines()
        for line in axis.get_lines():
            assert len(line.get_xdata()) > 1 or line.get_marker() == "."
            low, high = axis.get_xlim()
            assert low == 0
            assert max(line.get_xdata()) <= high


def test_curves_of_a_plot_differ_in_colour_or_style(drawn):
    _, figure = drawn
    for axis in visible(figure):
        looks = [(line.get_color(), line.get_linestyle()) for line in axis.get_lines()]
        assert len(set(looks)) == len(looks)


def test_legends_and_titles_cover_nothing(drawn):
    _, figure = drawn
    plots = [axis.get_window_extent() for axis in visible(figure)]
    words = [axis.get_legend().get_window_extent() for axis in visible(figure) if axis.get_legend()]
    words += [axis.title.get_window_extent() for axis in visible(figure) if axis.get_title()]
    words += [axis.xaxis.label.get_window_extent() for axis in visible(figure) if axis.get_xlabel()]
    assert not [1 for word in words for plot in plots if word.overlaps(plot)]
    assert not [1 for a, b in itertools.combinations(words, 2) if a.overlaps(b)]
    for word in words:
        assert word.x0 >= 0
        assert word.y0 >= 0
        assert word.x1 <= figure.bbox.x1


def test_a_picture_is_written_and_none_where_there_is_nothing(tmp_path):
    assert curves.loss_curves([], tmp_path / "losses.png") is None
    assert curves.loss_curves([{"stage": "full-own", "step": 1, "loss": None}], tmp_path / "losses.png") is None
    path = curves.loss_curves(RUNS["all arms"], tmp_path / "losses.png")
    with Image.open(path) as picture:
        assert picture.width > picture.height / 2

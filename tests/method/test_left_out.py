"""A view that is left out says why: nothing new in it, or networks of its own whose steps ended too early."""

from __future__ import annotations

import pytest

from bootdiff.method.left_out import sentence, still_improving


def rows(*losses, every=10):
    """Held-out rows of a stage, and rows of another kind between them."""
    held_out = [{"step": every * (k + 1), "heldout": {"0.1": v, "1": v}} for k, v in enumerate(losses)]
    return [{"step": 5, "loss": 9.0}, *held_out]


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ((0.9, 0.8, 0.7, 0.6), 0.1 / 0.7),  # of 40 steps the last quarter: from 30 on
        ((0.9, 0.8, 0.6, 0.599), None),  # falls, but hardly
        ((0.9, 0.6, 0.7, 0.65), None),  # it has turned, although it falls again
        ((0.9, 0.6, 0.5, 0.55), None),
        ((0.5,), None),
        ((), None),
    ],
)
def test_a_training_still_improves_where_its_last_quarter_brought_something(losses, found):
    assert still_improving(rows(*losses)) == (None if found is None else pytest.approx(found))


def test_levels_at_which_the_data_say_nothing_do_not_count():
    found = [{"step": step, "heldout": {"0.1": None, "1": loss}} for step, loss in ((10, 0.5), (20, 0.4))]
    assert still_improving(found) == pytest.approx(0.2)


def test_the_sentence_tells_nothing_new_from_undertrained():
    nothing, early = sentence("clips", True, {}), sentence("clips", True, {"view-clips-unet": 0.03})
    assert "adds nothing" in nothing
    assert "train it longer" not in nothing
    assert "view-clips-unet by 3.0 %" in early
    assert "train it longer" in early
    assert "gains are 0" in sentence("clips", False, {})

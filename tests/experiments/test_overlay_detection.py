"""Detectors of overlays: what they find, how strong, how often in vain."""

from __future__ import annotations

import pytest
import torch

from experiments.benchmark.overlay_detection import caption_trace, logo_trace, table

SIZE = (3, 8, 20, 20)


def clean(n: int, seed: int) -> torch.Tensor:
    """Smooth videos, (n, 3, 8, 20, 20)."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 3, 3, 5, 5, generator=rng)
    x = torch.nn.functional.interpolate(coarse, SIZE[1:], mode="trilinear", align_corners=True)
    return (0.4 * x + 0.05 * torch.randn(n, *SIZE, generator=rng)).clamp(-1, 1)


WHERE = torch.zeros(20, 20, dtype=torch.bool)
WHERE[2:6, 13:17] = True
LOGO = WHERE * torch.tensor([1.0, 0.0, 0.5, 1.0] * 5)


def with_logo(x: torch.Tensor, opacity: float) -> torch.Tensor:
    return x * (1 - opacity * LOGO) + opacity * LOGO


def with_caption(x: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A dark band of four rows with bright strokes, elsewhere in each video, for five frames; the last has none."""
    rng = torch.Generator().manual_seed(seed)
    x, top = x.clone(), torch.full((len(x), SIZE[1]), -1)
    for i in range(len(x) - 1):
        row, start = (int(torch.randint(low, high, (), generator=rng)) for low, high in ((7, 17), (0, 4)))
        strokes = (torch.rand(20, generator=rng) < 0.4).float() * 2 - 1
        x[i, :, start : start + 5, row : row + 4] = 0.3 * x[i, :, start : start + 5, row : row + 4] + 0.7 * strokes
        top[i, start : start + 5] = row
    return x, top


@pytest.mark.parametrize("kind", ["logo", "caption"])
def test_an_overlay_is_found_and_nothing_else(kind):
    learn, calibrate, fresh = clean(200, 0), clean(200, 1), clean(200, 2)
    if kind == "logo":
        trace, marked = logo_trace(learn, with_logo(learn, 0.8), WHERE), with_logo(fresh, 0.8)
    else:
        trace, marked = caption_trace(learn, *with_caption(learn, 3), rows=4), with_caption(fresh, 4)[0][:-1]
    assert trace.found(marked)["share"] == 0  # no threshold yet
    trace = trace.calibrated(calibrate, 0.05)
    there, nothing = trace.found(marked), trace.found(fresh)
    assert trace.found(calibrate)["share"] == pytest.approx(0.05, abs=0.006)
    assert there["share"] > 0.95
    assert there["strength"] == pytest.approx(1, abs=0.25)
    assert nothing["share"] < 0.05 + 4 * nothing["stderr"]
    assert 0 < there["stderr"] < 0.03
    assert there["count"] == len(marked)


def test_strength_is_the_opacity_of_what_is_left():
    learn, fresh = clean(200, 0), clean(200, 2)
    trace = logo_trace(learn, with_logo(learn, 0.8), WHERE).calibrated(clean(200, 1), 0.05)
    for share in (0.0, 0.1, 0.5):
        found = trace.found(with_logo(fresh, 0.8 * share))
        assert abs(found["strength"] - share) < 4 * found["strength_stderr"] + 0.02 * share
    # A ghost of it elsewhere is none.
    assert trace.found(with_logo(fresh.flip(-1), 0.8).flip(-1))["share"] < 0.15


def test_columns_beside_the_logo_do_not_see_it():
    learn = clean(200, 0)
    marked, top = with_caption(with_logo(learn, 0.8), 3)
    trace = caption_trace(learn, marked, top, 4, columns=(0, 12)).calibrated(clean(200, 1), 0.05)
    fresh = clean(200, 2)
    torch.testing.assert_close(trace.strength(with_logo(fresh, 1.0)), trace.strength(fresh))


def test_the_table_says_how_many_and_how_sure():
    trace = logo_trace(clean(50, 0), with_logo(clean(50, 0), 0.8), WHERE).calibrated(clean(50, 1), 0.05)
    found = trace.found(with_logo(clean(40, 2), 0.8))
    said = table(
        {"found": {"naive_mix": {"logo": found, "caption": found}}, "false_alarms": 0.05, "seed": 0, "command": "c"}
    )
    _, _, row, _, note = said.splitlines()
    assert row.startswith("| naive-mix | 100.0 ± 2.4 % of 40 | ")
    assert note == "Seed 0, 5 % false alarms; `c`."


def test_what_cannot_be_learned_from_is_refused():
    x = clean(4, 0)
    with pytest.raises(ValueError, match="alike"):
        logo_trace(x, x[:2], WHERE)
    with pytest.raises(ValueError, match="no logo"):
        logo_trace(x, x, torch.zeros_like(WHERE))
    with pytest.raises(ValueError, match="top"):
        caption_trace(x, x, torch.zeros(4, 3, dtype=torch.long), 4)
    with pytest.raises(ValueError, match="no video"):
        caption_trace(x, x, torch.full((4, 8), -1), 4)

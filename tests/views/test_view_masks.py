"""Masks, drawn and fixed, of every kind of data; and what they say where they do not fit."""

from __future__ import annotations

import pytest
import torch

from bootdiff.views import (
    ChannelMix,
    Crop,
    Downsample,
    FrameWindow,
    Identity,
    Mask,
    Observed,
    Pick,
    RandomMask,
    Stills,
    Window,
    compose,
)
from view_cases import GRID, PICTURE


def test_masks():
    full = (3, 4, 4)
    assert Identity().mask(full) is None
    assert Downsample(2).mask(full) is None
    assert Mask(box=(0, 1, 2, 1)).mask(full).tolist() == [[[1, 0, 1, 1], [1, 0, 1, 1], [1] * 4, [1] * 4]]
    assert Mask(band=("bottom", 1)).mask(full)[0, :, 0].tolist() == [1, 1, 1, 0]
    assert Mask(band=("top", 1)).mask(full)[0, :, 0].tolist() == [0, 1, 1, 1]
    image = torch.eye(4)
    assert torch.equal(Mask(image=image).mask(full)[0], image)
    assert Mask(image=image) == Mask(image=image.bool()) == Mask(image=image.int().tolist())
    # of views of views
    assert compose(Downsample(2), Mask(box=(0, 0, 1, 1))).mask(full).tolist() == [[[0, 1], [1, 1]]]
    assert compose(Mask(box=(0, 0, 2, 2)), Downsample(2)).mask(full).tolist() == [[[0, 1], [1, 1]]]
    assert compose(Mask(image=image), Crop(2, offset=(0, 1))).mask(full).tolist() == [[[0, 0], [1, 0]]]
    assert torch.equal(compose(ChannelMix.gray(), Mask(image=image)).mask(full)[0], image)
    assert torch.equal(compose(Mask(image=image), ChannelMix.gray()).mask(full)[0], image)
    assert torch.equal(Observed(Mask(image=image), std=1.0).mask(full)[0], image)


@pytest.mark.parametrize("hide", ["box", "pixels"])
@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_random_masks_hide_the_fraction(hide, fraction):
    views = RandomMask(hide=hide, fraction=fraction, count=200).placements((1, 20, 20))
    hidden = 1 - torch.stack([v.mask((1, 20, 20)) for v in views])
    assert hidden.mean().item() == pytest.approx(fraction, rel=0.1)
    assert len(set(views)) > 40
    if hide == "pixels":  # every pixel alike
        assert hidden.mean(0).std() < 2 * (fraction * (1 - fraction) / 200) ** 0.5


def test_a_mask_first_used_in_inference_mode_can_be_trained_through():
    view, x = Mask(image=GRID), torch.randn(1, *PICTURE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        view(x)
    x.requires_grad_()
    view(x).sum().backward()
    assert torch.equal(x.grad[0, 0].bool(), torch.tensor(GRID))


def test_masks_of_videos():
    full = (2, 3, 2, 2)
    assert Mask(band=("bottom", 1)).mask(full).tolist() == [[[[1, 1], [0, 0]]] * 3]
    assert Mask(box=(0, 1, 1, 1)).mask(full).tolist() == [[[[1, 0], [1, 1]]] * 3]
    assert Mask(box=(1, 0, 0, 2, 1, 2)).mask(full).tolist() == [[[[1, 1], [1, 1]], [[0, 0], [1, 1]], [[0, 0], [1, 1]]]]
    logo = torch.eye(2)
    assert torch.equal(Mask(image=logo).mask(full), logo.expand(1, 3, 2, 2))
    moving = torch.tensor([[[0, 1], [1, 1]], [[1, 0], [1, 1]], [[1, 1], [0, 1]]])
    assert torch.equal(Mask(image=moving).mask(full), moving[None].float())
    assert torch.equal(Mask(image=moving[None]).mask(full), moving[None].float())
    each = torch.stack([moving, 1 - moving])
    assert torch.equal(Mask(image=each).mask(full), each.float())
    # seen through other views
    assert torch.equal(compose(Mask(image=moving), Stills(frame=1)).mask(full), moving[1:2].float())
    assert torch.equal(compose(Mask(image=moving), FrameWindow(2, offset=1)).mask(full), moving[None, 1:].float())
    assert torch.equal(compose(Mask(image=each), Pick((1,))).mask(full), each[1:].float())
    assert torch.equal(compose(Mask(image=logo), Downsample(3, axes=(-3,))).mask(full), logo.expand(1, 1, 2, 2))


def test_masks_of_signals_and_vectors():
    assert Mask(start=1, stop=3).mask((2, 4)).tolist() == [[1, 0, 0, 1]]
    assert Mask(start=1, stop=3).mask((4,)).tolist() == [1, 0, 0, 1]
    assert Mask(image=(1, 0, 1)).mask((2, 3)).tolist() == [[1, 0, 1]]
    assert Mask(image=((1, 0, 1), (0, 1, 1))).mask((2, 3)).tolist() == [[1, 0, 1], [0, 1, 1]]
    assert Mask(image=(1, 0)).mask((2,)).tolist() == [1, 0]
    assert compose(Mask(start=1, stop=3), Window(2, offset=2)).mask((1, 4)).tolist() == [[0, 1]]
    assert compose(Mask(image=(1, 0, 0)), Pick((1, 0))).mask((3,)).tolist() == [0, 1]
    # a mix sees what all it mixes is seen of, and nothing where none is
    seen = compose(Mask(image=((1, 1, 0), (1, 1, 0), (0, 1, 0))), ChannelMix(weights=(0.5, 0.5, 0)))
    assert seen.mask((3, 3)).tolist() == [[1, 1, 0]]
    with pytest.raises(ValueError, match="seen and hidden"):
        compose(Mask(image=((1, 1, 0), (1, 1, 0), (0, 1, 0))), ChannelMix(weights=(0.5, 0, 0.5))).shape((3, 3))


def test_what_random_masks_hide():
    video, signal = (2, 8, 9, 9), (2, 40)

    def hidden(hide, full, fraction=0.25):
        views = RandomMask(hide=hide, fraction=fraction, count=50).placements(full)
        assert len(set(views)) > (1 if hide == "channels" else 5)
        return 1 - torch.stack([v.mask(full) for v in views])

    still = hidden("box", video)
    assert torch.equal(still, still[:, :, :1].expand_as(still))
    moving = hidden("moving", video)
    assert torch.equal(moving.sum((-2, -1)).unique(), still.sum((-2, -1)).unique())
    assert (moving[:, :, 0] != moving[:, :, -1]).flatten(1).any(1).float().mean() > 0.8
    # ... by at most so many pixels from frame to frame as a straight line takes
    rows = moving[:, 0].amax(-1).argmax(-1)
    assert rows.diff(dim=1).abs().max() <= -(-5 // 7) + 1
    gaps = hidden("gap", signal)
    assert gaps.sum(-1).unique().tolist() == [10]
    assert (gaps.diff(dim=-1).abs().sum(-1) <= 2).all()  # in one piece
    frames = hidden("gap", video)
    assert frames.mean((-2, -1)).unique().tolist() == [0, 1]
    assert frames.mean((-2, -1)).sum(-1).unique().tolist() == [2]
    apart = RandomMask(hide="gap", apart=True, count=20).placements((3, 40))
    own = 1 - torch.stack([v.mask((3, 40)) for v in apart])
    assert own.shape == (20, 3, 40)
    assert own.sum(-1).unique().tolist() == [10]
    assert (own[:, 0] != own[:, 1]).any()
    channels = hidden("channels", (4, 8, 8), 0.5)
    assert channels.mean((-2, -1)).sum(1).unique().tolist() == [2]
    assert hidden("channels", (4,), 0.9).sum(1).unique().tolist() == [3]  # one is left
    assert hidden("pixels", (8,), 0.25).sum(1).unique().tolist() == [2]


@pytest.mark.parametrize(
    ("view", "full", "said"),
    [
        (Mask(band=("bottom", 1)), (3, 8), ["(3, 8)", "start and stop"]),
        (Mask(start=0, stop=2), (3, 8, 8), ["box, band or image"]),
        (Mask(start=6, stop=9), (3, 8), ["samples 6 to 8", "hide less"]),
        (Mask(start=0, stop=8), (3, 8), ["hide less"]),
        (Mask(box=(0, 0, 0, 1, 2, 2)), (3, 8, 8), ["3 axes", "(top, left, height, width)"]),
        (Mask(box=(5, 0, 0, 2, 2, 2)), (3, 6, 8, 8), ["2 frames from frame 5", "hide less"]),
        (Mask(image=GRID), (3, 4, 12, 8), ["(8, 12)", "(12, 8)"]),
        (Mask(image=torch.ones(5, 8, 12)), (3, 4, 8, 12), ["(5, 8, 12)", "(8, 12)"]),
        (Mask(image=(1, 0)), (3,), ["(2,)", "(3,)"]),
        (RandomMask(), (3, 8), ["'box'", "videos"]),
        (RandomMask(hide="moving"), (3, 8, 8), ["'moving'", "videos (C, T, H, W)"]),
        (RandomMask(hide="gap"), (3, 8, 8), ["'gap'", "signals (C, L)"]),
        (RandomMask(hide="channels"), (1, 8, 8), ["all there is"]),
    ],
    ids=str,
)
def test_masks_that_do_not_fit(view, full, said):
    for use in (lambda: view.shape(full), lambda: view.draw(full, torch.Generator()), lambda: view.placements(full)):
        with pytest.raises(ValueError) as error:
            use()
        assert all(words in str(error.value) for words in said), error.value


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Mask(start=1), "give both: start and stop"),
        (lambda: Mask(start=4, stop=4), r"stop: must be greater than start \(4\), got 4"),
        (lambda: Mask(start=0, stop=2, band=("top", 1)), "exactly one of.*band and start and stop"),
        (lambda: Mask(box=(0, 0, 1)), "box must have at least 4"),
        (lambda: Mask(image=1), "0 and 1"),
        (lambda: RandomMask(hide="circle"), "moving"),
        (lambda: RandomMask(hide="channels", apart=True), "whole channels"),
    ],
)
def test_wrong_arguments(make, said):
    with pytest.raises(ValueError, match=said):
        make()

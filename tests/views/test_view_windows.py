"""Windows, frames and channels: what they pick, where their placements lie, and what they tell of it."""

from __future__ import annotations

import pytest
import torch

from bootdiff.views import Crop, Downsample, FrameStride, FrameWindow, Mask, Pick, Stills, Window, compose

VIDEO = (2, 6, 4, 5)


def counting(full):
    return torch.arange(float(torch.tensor(full).prod())).reshape(1, *full)


def test_what_is_picked():
    x = counting(VIDEO)
    assert torch.equal(FrameWindow(2, offset=3)(x), x[:, :, 3:5])
    assert torch.equal(Stills(frame=4)(x), x[:, :, 4])
    assert torch.equal(FrameStride(3, offset=2)(x), x[:, :, [2, 5]])
    assert torch.equal(Crop((2, 3), offset=(1, 2))(x), x[..., 1:3, 2:5])
    assert torch.equal(Crop((4, 2, 3), offset=(2, 1, 2))(x), x[..., 2:6, 1:3, 2:5])
    assert torch.equal(Pick((1,))(x), x[:, 1:])
    signal = counting((3, 10))
    assert torch.equal(Window(4, offset=5)(signal), signal[..., 5:9])
    assert torch.equal(Crop((4,), offset=(5,))(signal), signal[..., 5:9])
    assert torch.equal(Pick((2, 0))(signal), signal[:, [2, 0]])
    assert Pick((2, 0))(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[3, 1]]


def test_the_same_window_said_in_two_ways():
    x, y = counting(VIDEO), counting((1, 2, 2, 4, 5))[0]
    clip, box = FrameWindow(2, offset=3), Crop((2, 4, 5), offset=(3, 0, 0))
    assert torch.equal(clip(x), box(x))
    assert torch.equal(clip.lift(y, VIDEO), box.lift(y, VIDEO))
    thumbnails = (compose(FrameWindow(2, offset=3), Downsample(2)), compose(Downsample(2), FrameWindow(2, offset=3)))
    x = counting((2, 6, 4, 6))
    torch.testing.assert_close(thumbnails[0](x), thumbnails[1](x))
    assert thumbnails[0].scale == thumbnails[1].scale == 2


def test_placements():
    offsets = [p.offset for p in FrameWindow(4).placements((3, 12, 8, 8))]
    assert offsets == [0, 2, 4, 6, 8]
    assert [p.offset for p in FrameWindow(4, stride=3).placements((3, 12, 8, 8))] == [0, 3, 6, 8]
    assert [p.offset for p in Window(4, stride=4).placements((1, 10))] == [0, 4, 6]
    assert [p.frame for p in Stills().placements(VIDEO)] == [0, 1, 2, 3, 4, 5]
    assert [p.frame for p in Stills(every=4).placements(VIDEO)] == [0, 4]
    assert [p.offset for p in FrameStride(3).placements(VIDEO)] == [0, 1, 2]
    assert [p.offset for p in Crop((4, 4, 5), stride=(1, 1, 1)).placements(VIDEO)] == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    assert Crop((4,)) != Window(4) != FrameWindow(4)
    # each frame of a grid of clips is weighed by the clips that show it
    assert FrameWindow(4).coverage((1, 12, 1, 1)).flatten().tolist() == [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1]
    assert Stills(every=4).coverage((1, 6, 1, 1)).eq(1).all()
    assert Stills(every=4).rank(VIDEO) == 2 * 2 * 4 * 5
    assert FrameStride(3).rank(VIDEO) == 2 * 6 * 4 * 5


@pytest.mark.parametrize(
    "view", [FrameWindow(2), Window(3), Stills(), FrameStride(2), Crop((4, 2, 2))], ids=lambda v: type(v).__name__
)
def test_files_may_come_from_anywhere(view):
    drawn = {view.draw(VIDEO, torch.Generator().manual_seed(i)) for i in range(200)}
    assert drawn == set(view.placements(VIDEO))


def test_places_told():
    clip = FrameWindow(2, offset=3, position_conditioned=True)
    # centres of frames 3 and 4 of 6: 2 (3 + 1/2) / 6 - 1 and 2 (4 + 1/2) / 6 - 1
    torch.testing.assert_close(
        clip.position_channels(VIDEO), torch.tensor([1 / 6, 1 / 2])[None, :, None, None].expand(1, 2, 4, 5)
    )
    still = Stills(position_conditioned=True).placements(VIDEO)[3]
    torch.testing.assert_close(still.position_channels(VIDEO), torch.full((1, 4, 5), 1 / 6))
    window = Window(2, offset=2, position_conditioned=True)
    torch.testing.assert_close(window.position_channels((3, 4)), torch.tensor([[0.25, 0.75]]))
    crop = Crop((1, 2), offset=(3, 0), position_conditioned=True)
    torch.testing.assert_close(crop.position_channels((3, 4, 4)), torch.tensor([[[0.75, 0.75]], [[-0.75, -0.25]]]))
    # a thumbnail's pixels lie at the middle of their blocks; a crop of thumbnails is placed in the thumbnail
    small = compose(Crop((2, 2), offset=(2, 0), position_conditioned=True), Downsample(2))
    torch.testing.assert_close(small.position_channels((3, 4, 4)), torch.tensor([[[0.5]], [[-0.5]]]))
    again = compose(Downsample(2), Crop((1, 1), offset=(1, 0), position_conditioned=True))
    torch.testing.assert_close(again.position_channels((3, 4, 4)), torch.tensor([[[0.5]], [[-0.5]]]))
    # time, then rows and columns; the hidden have their places, too
    both = compose(
        Stills(frame=0, position_conditioned=True),
        Mask(box=(0, 0, 1, 1)),
        Crop((1, 1), offset=(0, 0), position_conditioned=True),
    )
    assert both.position_channels((3, 2, 2, 2)).flatten().tolist() == [-0.5, -0.5, -0.5]
    assert both.context((3, 2, 2, 2)).flatten().tolist() == [0, -0.5, -0.5, -0.5]
    assert FrameWindow(2, offset=0).context(VIDEO) is None
    with pytest.raises(ValueError, match="several placements"):
        Stills(position_conditioned=True).position_channels(VIDEO)

"""Views of one's own: three methods suffice, every helper works, and the laws find what is wrong."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass

import pytest
import torch

from bootdiff.spec import decode
from bootdiff.views import (
    Crop,
    Downsample,
    Identity,
    Mask,
    Observed,
    RandomMask,
    View,
    check_view,
    compose,
    from_config,
    to_config,
)  # fmt: skip
from view_cases import CASES

FULL = (3, 8, 8)


class Rotated(View):
    """Dense: an orthonormal mix of all values of a sample."""

    def shape(self, full):
        return (5,)

    def matrix(self, full, like):
        g = torch.Generator().manual_seed(3)
        return torch.linalg.qr(torch.randn(math.prod(full), 5, generator=g, dtype=torch.float64)).Q.T.to(like)

    def forward(self, x):
        return x.flatten(1) @ self.matrix(x.shape[1:], x).T

    def adjoint(self, y, full):
        return (y @ self.matrix(full, y)).reshape(-1, *full)


class Mirrored(View):
    def shape(self, full):
        return full

    def forward(self, x):
        return x.flip(-1)

    def adjoint(self, y, full):
        return y.flip(-1)


class Mixed(View):
    """Two channels of three, with signs: some of the mask's helpers cannot treat all channels alike."""

    def shape(self, full):
        return (1, *full[1:])

    def forward(self, x):
        return (x[:, :1] - x[:, 1:2]) / 2**0.5

    def adjoint(self, y, full):
        return torch.cat([y, -y, 0 * y], 1) / 2**0.5


class Checkered(View):
    """A mask that differs between channels."""

    masked = True

    def __init__(self, step):
        self.step = step

    def shape(self, full):
        return full

    def forward(self, x):
        seen = torch.arange(math.prod(x.shape[1:])).reshape(x.shape[1:]) % self.step > 0
        return x * seen

    def adjoint(self, y, full):
        return self.forward(y)


@dataclass(frozen=True)
class Rows(View):
    """Some rows; without a first one, any."""

    count: int
    first: int | None = None
    inner: View = Identity()  # noqa: RUF009 (frozen)

    def __post_init__(self):
        object.__setattr__(self, "is_fixed", self.first is not None)

    def shape(self, full):
        return (full[0], self.count, full[2])

    def forward(self, x):
        return x[:, :, self.first : self.first + self.count]

    def adjoint(self, y, full):
        return torch.nn.functional.pad(y, (0, 0, self.first, full[1] - self.first - self.count))

    def placements(self, full):
        return tuple(Rows(self.count, i) for i in range(0, full[1] - self.count + 1, self.count))

    def draw(self, full, generator):
        return self.placements(full)[0]


OWN = [Rotated(), Mirrored(), Mixed(), Checkered(5), Rows(2, 1), Rows(4)]
CHAINS = [
    compose(Mask(box=(0, 0, 2, 8)), Mixed()),
    compose(Mirrored(), Mask(box=(0, 0, 2, 3))),
    compose(Downsample(2), Rows(2)),
    compose(Crop(4, position_conditioned=True), Mirrored()),
    Observed(Rotated(), std=0.5),
]


@pytest.mark.parametrize("view", OWN + CHAINS, ids=str)
def test_every_helper_works(view):
    check_view(view, FULL)
    rows = torch.cat([p(torch.eye(192).reshape(192, *FULL)).flatten(1).T for p in view.placements(FULL)])
    assert view.rank(FULL) == torch.linalg.matrix_rank(rows)
    assert torch.equal(view.coverage(FULL).flatten(), (rows.abs() > 1e-7).sum(0).clamp(min=1).float()) or isinstance(
        view, Observed | Rotated
    )
    for p in (*view.placements(FULL), view.draw(FULL, torch.Generator())):
        m, shape = p.mask(FULL), p.shape(FULL)
        assert (m is None) == (not view.masked)
        if m is not None:
            y = torch.randn(1, *shape)
            torch.testing.assert_close(p(p.lift(y, FULL)), m * y)
        context = p.context(FULL)
        assert (context is None) == (m is None and not view.position_conditioned)
        total = torch.zeros(1, *FULL)
        p.lift_onto(total, torch.ones(1, *shape))
        torch.testing.assert_close(total, p.lift(torch.ones(1, *shape), FULL))
    assert view.pace(FULL) is None
    assert view.n_offsets in (0, 2)


def test_the_coverage_of_one_dense_view_is_one():
    assert (Rotated().coverage(FULL) == 1).all()


def test_masks_by_channel_are_found():
    assert Checkered(5).mask(FULL).shape == FULL
    assert Checkered(5).mask(FULL).flatten()[:6].tolist() == [0, 1, 1, 1, 1, 0]
    assert compose(Mask(box=(0, 0, 2, 8)), Mixed()).mask(FULL)[0, :, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert compose(Mirrored(), Mask(box=(0, 0, 2, 3))).mask(FULL).shape == (1, 8, 8)


def test_own_views_around_masks_may_not_mix_seen_and_hidden():
    with pytest.raises(ValueError, match="seen and hidden"):
        compose(Mask(box=(0, 0, 2, 8)), Rotated()).shape(FULL)


def test_the_pace_of_an_own_view_of_videos():
    class Slow(View):
        def shape(self, full):
            return (full[0], full[1] // 3, *full[2:])

        def forward(self, x):
            return x.unflatten(2, (-1, 3)).sum(3) / 3**0.5

        def adjoint(self, y, full):
            return y.repeat_interleave(3, 2) / 3**0.5

    assert Slow().pace((1, 12, 2, 2)) == 3.0
    assert compose(Slow(), Mirrored()).pace((1, 12, 2, 2)) == 3.0


def test_a_class_that_lacks_a_method_cannot_be_made():
    class Half(View):
        def shape(self, full):
            return full

    with pytest.raises(TypeError, match="adjoint"):
        Half()


def test_a_view_of_several_needs_placements():
    class Several(Mirrored):
        is_fixed = False

    for use in (lambda v: v.placements(FULL), lambda v: v.draw(FULL, torch.Generator()), lambda v: v.coverage(FULL)):
        with pytest.raises(ValueError, match="must define `placements` and `draw`"):
            use(Several())


# As plain data


def test_config_round_trips():
    assert to_config(Checkered(5)) == {"kind": "Checkered", "step": 5}
    assert to_config(Mirrored()) == {"kind": "Mirrored"}
    nested = Rows(2, None, Checkered(3))
    config = json.loads(json.dumps(to_config(nested)))
    assert config == {"kind": "Rows", "count": 2, "first": None, "inner": {"kind": "Checkered", "step": 3}}
    again = from_config(config, [Rows, Checkered])
    assert (type(again), type(again.inner), again.inner.step) == (Rows, Checkered, 3)
    chain = json.loads(json.dumps(to_config(Observed(compose(Downsample(2), Checkered(5)), std=0.1))))
    assert isinstance(from_config(chain, classes=[Checkered]).view.outer, Checkered)
    # in a saved model, where only some of the views are own ones
    (found,) = decode([chain], {"Checkered": Checkered})
    assert isinstance(from_config(found).view.outer, Checkered)
    assert isinstance(from_config({"kind": Checkered, "step": 2}), Checkered)


def test_an_unknown_class_is_named():
    with pytest.raises(ValueError, match=r"is Checkered a class of your own, pass classes=\[Checkered\]"):
        from_config({"kind": "Checkered", "step": 5})
    with pytest.raises(ValueError, match="view Checkered: unknown steps; known: step"):
        from_config({"kind": "Checkered", "steps": 5}, [Checkered])
    with pytest.raises(ValueError, match=r"view Checkered: .*its arguments: step"):
        from_config({"kind": "Checkered"}, [Checkered])


def test_arguments_that_cannot_be_written_down_are_named():
    class Lost(Mirrored):
        def __init__(self, angle):
            self.turn = angle

    class Held(Mirrored):
        def __init__(self, weights):
            self.weights = weights

    with pytest.raises(ValueError, match=r"Lost cannot be saved: .* `angle` is not kept .* set self\.angle = angle"):
        to_config(Lost(3))
    with pytest.raises(ValueError, match=r"Held: its argument `weights` is a Tensor"):
        to_config(Held(torch.ones(2)))
    assert str(Lost(3)) == "Lost()"


# Laws


@pytest.mark.parametrize(("view", "full"), CASES, ids=[f"{len(f)}-{v}" for v, f in CASES])
def test_built_in_views_keep_the_laws(view, full):
    check_view(view, full)


class Faulty(Mirrored):
    def forward(self, x):
        return x.roll(1, -1)


class Affine(Mirrored):
    def forward(self, x):
        return x.flip(-1) + 1


class Scaled(Mirrored):
    def forward(self, x):
        return 2 * x.flip(-1)

    def adjoint(self, y, full):
        return 2 * y.flip(-1)


class Soft(Scaled):
    """A mask of halves."""

    masked = True

    def forward(self, x):
        return x / 2

    def adjoint(self, y, full):
        return y / 2


class Mixing(Mirrored):
    """A projection whose A A^T is not diagonal."""

    masked = True

    def forward(self, x):
        return x.mean(-1, keepdim=True).expand_as(x)

    def adjoint(self, y, full):
        return self.forward(y)


class Cut(Mirrored):
    def forward(self, x):
        return x[..., 1:]


class Single(Mirrored):
    def forward(self, x):
        return x.float().flip(-1)


class Empty(Mirrored):
    def shape(self, full):
        return (0, *full[1:])


class Nested(Rows):
    def placements(self, full):
        return (self,)


class Uneven(Rows):
    def placements(self, full):
        return (Rows(2, 0), Rows(1, 0))


class NoneOfThem(Rows):
    def placements(self, full):
        return ()


@pytest.mark.parametrize(
    ("view", "said"),
    [
        (Faulty(), r"Faulty\(\), samples of shape \(3, 8, 8\): the law 'adjoint' .* fails by \d"),
        (Affine(), r"Affine\(\).* 'linear' .* fails by \d"),
        (Scaled(), "'isometry' does not hold: A A.T y = y fails by 3 "),
        (Soft(), r"'isometry' does not hold: A A.T A x = A x fails by 0.75 "),
        (Mixing(), "'isometry' does not hold: A A.T y = m y"),
        (Cut(), r"'shape' .*`forward` gives \(2, 3, 8, 7\)"),
        (Single(), r"'shape' .*torch.float32, not"),
        (Empty(), r"'shape' .*\(0, 8, 8\)"),
        (Nested(2), "'shape' .*stands for several itself"),
        (Uneven(2), r"'shape' .*has another: \(3, 1, 8\)"),
        (NoneOfThem(2), "'shape' .*gives none"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_each_broken_law_is_named_with_its_size(view, said):
    with pytest.raises(ValueError, match=said):
        check_view(view, FULL)


def test_a_nan_is_no_proof():
    class Lost(Mirrored):
        def forward(self, x):
            return x.flip(-1) * math.nan

    with pytest.raises(ValueError, match="does not hold"):
        check_view(Lost(), FULL)


def test_the_laws_are_checked_in_a_tenth_of_a_second():
    for view in (Downsample(4), Crop(16, stride=1), RandomMask(), RandomMask(apart=True)):
        check_view(view, (3, 64, 64))
        began = time.process_time()
        check_view(view, (3, 64, 64))
        assert time.process_time() - began < 0.1

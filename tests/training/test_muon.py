"""Muon: what its step is, which weights it moves, and that a training with it is exact, resumed and scaled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bootdiff.errors import BootdiffError
from bootdiff.nets import BACKBONES, build_net
from bootdiff.nets.diffusers_net import DiffusersNet
from bootdiff.training.muon import Matrix, Muon, hidden_matrices
from bootdiff.training.optim import Optimizer, learning_rate
from bootdiff.training.run import Run, load_tensors
from bootdiff.training.settings import TrainingSettings
from training_toy import Batches, evaluate, network, settings, train

MUON = {"optimizer": "muon", "muon_lr": 0.05}
SHAPES = [(48, 48), (48, 130), (130, 48), (1, 7), (7, 1), (24, 6, 5), (16, 24, 3, 3), (64, 3, 3, 3), (8, 16, 3, 3, 3)]


@pytest.fixture
def run(tmp_path):
    with Run.open(tmp_path / "run", "seed: 3") as run:
        yield run


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moved(*gradients, lr=1.0, momentum=0.0, **how):
    """What a step from weights of 0 adds to each, with the opposite sign: factor times O(u)."""
    weights = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.clone(memory_format=torch.preserve_format)
    Muon([Matrix(weight) for weight in weights], momentum, **how).step(lr)
    return [-weight.detach() for weight in weights]


def factor(matrix):
    return max(1.0, matrix.shape[0] / matrix[0].numel()) ** 0.5


def newton_schulz(u):
    """The five steps as they are published, in float64."""
    x = u.double().flatten(1)
    x = x / x.norm() if x.any() else x
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if tall else x).reshape(u.shape)


def with_values(rows, columns, values):
    """A matrix of these singular values."""
    u, _, v = torch.linalg.svd(randn(rows, columns).double(), full_matrices=False)
    return (u * torch.as_tensor(values).double() @ v).float()


# --- the step


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_of_a_step_are_about_one(shape):
    rows, columns = shape[0], randn(*shape)[0].numel()
    gradient = with_values(rows, columns, torch.linspace(0.2, 1, min(rows, columns))).reshape(shape)
    (step,) = moved(gradient)
    values = torch.linalg.svdvals(step.flatten(1) / factor(step))
    assert values.min() > 0.6
    assert values.max() < 1.25
    torch.testing.assert_close(step.double(), factor(step) * newton_schulz(gradient), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(40, 40), (24, 90), (90, 24)])
@pytest.mark.parametrize(
    "values", [torch.logspace(0, -3, 24), [1.0] * 12 + [0.0] * 12, [1.0, *[1e-3] * 23], [1.0, *[0.0] * 23]]
)
def test_ill_conditioned_and_singular_matrices(rows, columns, values):
    """Squaring in A_0 costs half of float32's digits where singular values are small: what is left is 3 of them."""
    values = torch.cat([torch.as_tensor(values), torch.zeros(min(rows, columns) - 24)])
    for scale in (1.0, 1e-12, 1e12):
        gradient = scale * with_values(rows, columns, values)
        (step,) = moved(gradient)
        error = step.double() / factor(step) - newton_schulz(gradient)
        assert torch.linalg.matrix_norm(error, 2) < 2e-3


def test_without_gradients_nothing_moves():
    for step in moved(torch.zeros(5, 7), torch.zeros(4, 3, 3, 3), randn(5, 7)):
        assert step.isfinite().all()
    zero, _, other = moved(torch.zeros(5, 7), torch.zeros(4, 3, 3, 3), randn(5, 7))
    assert not zero.any()
    assert other.any()


def test_many_at_once_are_as_one_by_one():
    gradients = [randn(*shape, seed=seed) for seed in range(3) for shape in SHAPES]
    for together, (alone,) in zip(moved(*gradients), map(moved, gradients), strict=True):
        torch.testing.assert_close(together, alone, rtol=0, atol=2e-4)


def test_scale_and_rotations_pass_through():
    gradient, q = randn(24, 60), torch.linalg.qr(randn(24, 24, seed=1))[0]
    (plain,), (scaled,), (rotated,) = moved(gradient), moved(1e-4 * gradient), moved(q @ gradient)
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-4)
    torch.testing.assert_close(rotated, q @ plain, rtol=0, atol=1e-4)


def test_orthogonal_rows_keep_their_direction():
    rows = torch.linalg.qr(randn(60, 24))[0].T
    (step,) = moved(3 * rows)
    s = 24**-0.5
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(step, s * rows, rtol=0, atol=1e-5)


def test_momentum_is_nesterovs_and_decay_is_apart_from_it():
    weight = nn.Parameter(randn(6, 9, seed=5))
    muon, by_hand, m = Muon([Matrix(weight)], 0.9, 0.5), weight.detach().clone().double(), torch.zeros(6, 9)
    for t in range(4):
        g = randn(6, 9, seed=t)
        weight.grad = g.clone()
        muon.step(0.1)
        m = 0.9 * m + g
        by_hand = by_hand * (1 - 0.1 * 0.5) - 0.1 * newton_schulz(g + 0.9 * m)
        torch.testing.assert_close(muon.momenta[0], m)
    torch.testing.assert_close(weight.double(), by_hand, rtol=0, atol=1e-4)


def test_a_weight_without_a_gradient_rests():
    one, other = nn.Parameter(randn(4, 6)), nn.Parameter(randn(4, 6, seed=1))
    muon = Muon([Matrix(one), Matrix(other)], 0.9, 0.1)
    one.grad, other.grad = randn(4, 6, seed=2), randn(4, 6, seed=3)
    muon.step(0.1)
    before, kept = other.detach().clone(), muon.momenta[1].clone()
    assert kept.any()
    other.grad, there = None, one.detach().clone()
    muon.step(0.1)
    assert torch.equal(other, before)
    assert torch.equal(muon.momenta[1], kept)
    assert not torch.equal(one, there)
    one.grad = None
    muon.step(0.1)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((12, 8, 3, 3), torch.channels_last),
        ((12, 8, 3, 3, 3), torch.channels_last_3d),
        ((30, 2, 3, 3), torch.channels_last),
    ],
)
def test_the_order_in_memory_makes_no_difference_and_stays(shape, layout):
    gradient = randn(*shape)
    (plain,) = moved(gradient)
    (other,) = moved(gradient.to(memory_format=layout))
    torch.testing.assert_close(other, plain, rtol=0, atol=1e-5)
    assert other.is_contiguous(memory_format=layout)
    weight = nn.Parameter(torch.zeros(shape).to(memory_format=layout))
    weight.grad = gradient  # another order than the weight's
    Muon([Matrix(weight)], 0.0).step(1.0)
    torch.testing.assert_close(-weight.detach(), plain, rtol=0, atol=1e-5)


def test_a_matrix_whose_columns_lie_one_after_the_other():
    gradient = randn(6, 9)
    weight = nn.Parameter(torch.zeros(9, 6).T)
    weight.grad = gradient.clone()
    Muon([Matrix(weight)], 0.0).step(1.0)
    (expected,) = moved(gradient)
    torch.testing.assert_close(-weight.detach(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(10, 6, 3, 3), (6, 30, 4)])
def test_a_transposed_convolution_is_the_matrix_of_its_outputs(shape):
    gradient = randn(*shape)
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = gradient.clone()
    Muon([Matrix(weight, transposed=True)], 0.0).step(1.0)
    (expected,) = moved(gradient.transpose(0, 1).contiguous())
    torch.testing.assert_close(-weight.detach().transpose(0, 1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_low_precision_around_it_does_not_reach_it(precision):
    gradient = randn(48, 100)
    (expected,) = moved(gradient)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            (step,) = moved(gradient)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(step, expected)


def test_weights_in_bfloat16_move_by_steps_in_float32():
    gradient = randn(16, 40).bfloat16()
    (step,), (expected,) = moved(gradient), moved(gradient.float())
    assert step.dtype == torch.bfloat16
    assert torch.equal(step, expected.bfloat16())


def test_it_solves_a_quadratic_problem():
    """|A (W - W*)|^2 of condition number 1e4, in steps that fall to 0."""
    a, goal = torch.logspace(0, -2, 16)[:, None], randn(16, 24)
    weight = nn.Parameter(torch.zeros(16, 24))
    muon = Muon([Matrix(weight)], 0.9)
    for t in range(300):
        weight.grad = None
        (a * (weight - goal)).square().sum().backward()
        muon.step(0.2 * (1 - t / 300))
    assert (weight - goal).norm() < 0.05 * goal.norm()


# --- which weights


def names(net):
    found = {id(matrix.weight) for matrix in hidden_matrices(net)}
    return {name.removesuffix(".weight") for name, p in net.named_parameters() if id(p) in found}


def layers(net):
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {name for name, module in net.named_modules() if isinstance(module, kinds)}


ENDS = {
    "SignalUNet": {"first", "last"},
    "UNet": {"unet.conv_in", "unet.conv_out"},
    "VideoUNet": {"unet.conv_in", "unet.conv_out"},
    "LocalNet": {"first", "last"},
    "MLP": {"first", "last"},
    # Where the sample enters cannot be told from where the noise level does: both are dense and nested alike.
    "Linear": {"gain", "last"},
}


@pytest.mark.parametrize(("kind", "axes"), [(kind, axes) for kind, nets in BACKBONES.items() for axes in nets])
def test_all_layers_but_those_that_touch_the_sample(kind, axes):
    shape = (3, *{0: (), 1: (16,), 2: (8, 8), 3: (4, 8, 8)}[axes])
    net = build_net(kind, 4, shape, classes=3)
    ends = ENDS[type(net).__name__]
    assert ends <= layers(net)
    assert names(net) == layers(net) - ends
    # and the same inside of something else
    assert names(nn.ModuleDict({"net": net})) == {f"net.{name}" for name in names(net)}


def test_models_of_diffusers():
    dit = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "patch_size": 2}
    net = DiffusersNet("DiTTransformer2DModel", dit, 3, 3, (8, 8), 3)
    left = layers(net) - names(net)
    assert {name.split(".", 1)[1] for name in left} == {"pos_embed.proj", "proj_out_2"}


def test_other_modules():
    conv, dense = nn.Conv2d, nn.Linear
    assert names(nn.Sequential(dense(2, 4), dense(4, 4), dense(4, 2))) == {"1"}
    nested = nn.Sequential(nn.Sequential(conv(3, 8, 3), conv(8, 8, 3)), nn.Sequential(conv(8, 8, 3), conv(8, 3, 3)))
    assert names(nested) == {"0.1", "1.0"}
    # one layer alone is nested least
    assert names(nn.Sequential(conv(3, 8, 3), nn.Sequential(conv(8, 8, 3), conv(8, 3, 3)))) == {"1.0"}
    mixed = nn.ModuleDict(
        {
            "time": nn.Sequential(dense(4, 8), dense(8, 8)),
            "in": conv(3, 8, 3),
            "groups": conv(8, 8, 3, groups=8),
            "up": nn.ConvTranspose2d(8, 8, 2),
            "norm": nn.GroupNorm(2, 8),
            "table": nn.Embedding(8, 8),
            "tied": dense(8, 8),
            "frozen": dense(8, 8),
            "normed": nn.utils.parametrizations.weight_norm(dense(8, 8)),
            "out": conv(8, 3, 3),
        }
    )
    mixed["tied"].weight = mixed["table"].weight
    mixed["frozen"].weight.requires_grad_(False)
    assert names(mixed) == {"time.0", "time.1", "up"}
    assert [m.transposed for m in hidden_matrices(mixed)] == [False, False, True]
    assert hidden_matrices(nn.LayerNorm(4)) == []
    assert hidden_matrices(dense(4, 4)) == []


# --- trainings


class Vectors(nn.Module):
    """Nothing but a vector."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.scale * x


def test_vectors_alone_are_adamws(run):
    models = {}
    for name in ("muon", "adamw"):
        models[name] = Vectors()
        train(run.stage(name), model=models[name], optimizer=name)
    assert torch.equal(models["muon"].scale, models["adamw"].scale)
    assert not torch.equal(models["muon"].scale, torch.ones(4))


def test_matrices_alone_are_muons():
    """AdamW has nothing to do where the first and the last layer are frozen."""
    net = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
    net[0].requires_grad_(False)
    net[2].requires_grad_(False)
    params = [net[1].weight]
    optimizer = Optimizer(params, [net[1].weight.detach().clone()], settings(**MUON), None, hidden_matrices(net))
    before = net[1].weight.detach().clone()
    optimizer.backward(net(randn(3, 4)).square().mean())
    optimizer.step(0)
    assert not torch.equal(net[1].weight, before)
    assert optimizer.state().keys() == {"0.momentum"}


def test_both_follow_one_schedule(run):
    how = settings(steps=10, warmup=4, schedule="linear", lr=0.5, **MUON)
    assert [learning_rate(t, how) for t in (0, 4, 5, 9)] == pytest.approx([0.125, 0.3, 0.25, 0.05])
    assert learning_rate(5, how, peak=0.05) == pytest.approx(0.025)
    # and a step of Muon is as long as its rate says: all singular values of a step are about the rate
    net = network().eval()
    params, hidden = list(net.parameters()), net[3].weight
    optimizer = Optimizer(params, [p.detach().clone() for p in params], how, None, hidden_matrices(net))
    for t in (0, 5, 9):
        before = hidden.detach().clone()
        optimizer.backward(net(randn(64, 4, seed=t)).square().mean())
        optimizer.step(t)
        length = torch.linalg.matrix_norm(hidden.detach() - before, 2).item()
        assert 0.6 < length / learning_rate(t, how, peak=0.05) < 1.25


def test_a_training_with_it_learns(run):
    models = {name: network() for name in ("muon", "adamw", "none")}
    for name in ("muon", "adamw"):
        train(run.stage(name), model=models[name], optimizer=name, schedule="linear", steps=200)
    losses = {name: evaluate(model.eval())["1.0"] for name, model in models.items()}
    assert losses["muon"] < 1.2 * losses["adamw"] < 0.8 * losses["none"]


def test_a_checkpoint_holds_all_of_it(run):
    """Killed and resumed in the middle: the same bits; also as channels_last, whose order the file does not know."""

    def model():
        torch.manual_seed(0)
        convolutions = [nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 1, 3, padding=1)]
        return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), *convolutions, nn.Flatten()).to(
            memory_format=torch.channels_last
        )

    class Crash(Exception):
        pass

    def crash(t):
        if t == 33:
            raise Crash

    straight, resumed, options = model(), model(), MUON | {"evaluate": None}
    train(run.stage("straight"), model=straight, **options)
    with pytest.raises(Crash):
        train(run.stage("toy"), model=model(), batches=Batches(on_step=crash), **options)
    saved, meta = load_tensors(run.stage("toy") / "checkpoint.safetensors")
    assert meta["settings"]["optimizer"] == "muon"
    assert [name for name in saved if "momentum" in name] == ["optimizer.2.momentum"]
    with pytest.raises(BootdiffError, match=r"other settings: optimizer \(muon -> adamw\)"):
        train(run.stage("toy"), model=model(), evaluate=None)
    with pytest.raises(BootdiffError, match=r"other settings: muon_lr \(0\.05 -> 0\.04\)"):
        train(run.stage("toy"), model=model(), **options | {"muon_lr": 0.04})
    train(run.stage("toy"), model=resumed, **options)
    for ours, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_complete_training_of_the_other_optimizer_is_refused(run):
    """That of runs, too, which were written before there was a choice: nothing of Muon's is noted with AdamW."""
    train(run.stage("toy"))
    assert not run.stage("toy").info["settings"].keys() & {"optimizer", "muon_lr", "momentum"}
    with pytest.raises(BootdiffError, match=r"other settings: optimizer \(adamw -> muon\)"):
        train(run.stage("toy"), **MUON)
    train(run.stage("toy"), momentum=0.5)  # is nothing to AdamW


def test_a_loss_scale_that_overflows_lets_neither_step():
    """Infinite gradients of either kind of weights: no weight moves, and the scale falls."""
    for bad in (0, 3):  # the first layer is AdamW's, the layer of number 3 Muon's
        net = network().eval()
        params = list(net.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        how = settings(clip=None, **MUON)
        optimizer = Optimizer(params, [p.detach().clone() for p in params], how, scaler, hidden_matrices(net))
        before = [p.detach().clone() for p in params]
        optimizer.backward(net(randn(8, 4)).square().mean())
        net[bad].weight.grad[0, 0] = torch.inf
        optimizer.step(0)
        assert all(torch.equal(p, was) for p, was in zip(params, before, strict=True))
        assert scaler.get_scale() == 2.0
        optimizer.backward(net(randn(8, 4)).square().mean())
        optimizer.step(1)
        assert not any(torch.equal(p, was) for p, was in zip(params, before, strict=True))


def test_the_loss_scale_drops_out():
    weights = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        net = network().eval()
        params = list(net.parameters())
        averages = [p.detach().clone() for p in params]
        optimizer = Optimizer(params, averages, settings(clip=0.1, **MUON), scaler, hidden_matrices(net))
        for t in range(3):
            optimizer.backward(net(randn(8, 4, seed=t)).square().mean())
            optimizer.clip()
            optimizer.step(t)
        weights.append(params)
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_settings():
    assert TrainingSettings().momentum == 0.95
    for wrong in ({"optimizer": "sgd"}, {"muon_lr": 0.0}, {"momentum": 1.0}, {"schedule": "step"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TrainingSettings(**wrong)

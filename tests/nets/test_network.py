"""Networks of every origin: names, own classes and functions, modules that are there; what they must keep."""

from __future__ import annotations

import functools
import json
import random

import pytest
import torch
from torch import nn

from bootdiff.errors import BootdiffError
from bootdiff.nets import (
    BACKBONES,
    NETS,
    AdaptedInput,
    BuiltIn,
    LocalNet,
    Network,
    NetworkError,
    OwnNetwork,
    TemplateNetwork,
    UNet,
    as_network,
    build_net,
    check_network,
    default_networks,
)  # fmt: skip
from bootdiff.nets.build import options_of
from bootdiff.nets.network import NOISE, divided
from bootdiff.nets.own import input_channels
from bootdiff.noise import LogNormal
from bootdiff.settings import doc_of
from bootdiff.spec import decode, encode
from net_calls import C_NOISE, noise

SHAPE = (2, 6, 5)


class Plain(nn.Module):
    """Sets no config."""

    def __init__(self, c_in, c_out, width=4, *, act="tanh"):
        super().__init__()
        self.act = getattr(torch, act)
        self.first, self.last = nn.Conv2d(c_in, width, 3, padding=1), nn.Conv2d(width, c_out, 1)

    def forward(self, x, c_noise, label=None):
        return self.last(self.act(self.first(x) + c_noise[:, None, None, None]))


class Named(Plain):
    """Called by names, with classes."""

    def __init__(self, in_channels, out_channels, classes=None, shape=(), **more):
        super().__init__(in_channels, out_channels, **more)
        self.shape, self.classes = shape, classes
        self.embed = nn.Embedding((classes or 0) + 1, 1)

    def forward(self, x, c_noise, label=None):
        none = self.embed.num_embeddings - 1
        label = torch.full(x.shape[:1], none) if label is None else torch.where(label < 0, none, label)
        return super().forward(x, c_noise) + self.embed(label)[..., None, None]


def equal(a, b):
    x = noise(2, 3, *SHAPE[1:])
    return torch.equal(a(x, C_NOISE), b(x, C_NOISE))


def again(net):
    """Saved and loaded, weights aside."""
    made = decode(json.loads(json.dumps(encode(net))), {"Plain": Plain, "Named": Named, **NETS})
    made.load_state_dict(net.state_dict())
    return made


# Built-in ones


@pytest.mark.parametrize("shape", [(6,), (2, 40), (1, 512), (3, 16, 16), (1, 2, 32, 32)], ids=str)
def test_the_defaults_are_built_by_name(shape):
    networks = default_networks(len(shape) - 1)
    assert list(networks) == (["mlp", "linear"] if len(shape) == 1 else ["unet", "local"])
    for name, network in networks.items():
        torch.manual_seed(0)
        net = network.resolve(shape, shape).build(shape[0] + 1, shape)
        torch.manual_seed(0)
        other = as_network(name).build(shape[0] + 1, shape)
        assert net.config == other.config
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in net.state_dict().items())
        check_network(net, shape[0] + 1, shape)


def test_every_option_is_described_once():
    for kind in BACKBONES:
        assert all(doc_of(annotation) for annotation, _ in options_of(kind).values())
        defaults = {name: default for name, (_, default) in options_of(kind).items()}
        BuiltIn(kind, defaults)
    assert list(options_of("unet")) == ["channels", "layers", "attention", "dropout", "patch"]
    assert options_of("mlp")["width"][1] == 256


def test_descriptions_are_equal_exactly_for_what_builds_alike():
    picture = (3, 32, 32)

    def said(kind, shape=picture, full=picture, **options):
        return json.dumps(BuiltIn(kind, options).resolve(shape, full).describe())

    assert said("unet") == said("unet", channels=[24, 48, 48], attention=[2], patch=1)
    assert said("unet", shape=(3, 4, 4), full=(3, 4, 4)) == said("unet", (3, 4, 4), (3, 4, 4), channels=(24, 48))
    assert said("unet", (1, 2, 16, 16), (1, 2, 32, 32), patch=4) == said(
        "unet", (1, 2, 16, 16), (1, 2, 16, 16), patch=2
    )
    assert said("local") == said("local", width=64)
    assert said("linear", (3,), (3,)) == said("linear", (3,), (3,), rank=32)
    assert len({said("unet"), said("unet", dropout=0.1), said("unet", attention=False), said("local")}) == 4


def test_a_resolved_network_is_resolved():
    once = BuiltIn("unet", {"patch": 4}).resolve((1, 2, 16, 16), (1, 2, 32, 32))
    assert once.options["patch"] == 2
    assert once.resolve((1, 2, 16, 16), (1, 2, 32, 32)) is once


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: as_network("resnet"), "unknown backbone 'resnet'; known: unet, local, mlp, linear"),
        (lambda: as_network(3), r"a network is a name .* got 3"),
        (lambda: BuiltIn("unet", {"chanels": [8]}), "backbone 'unet': unknown chanels; known: channels, layers"),
        (lambda: BuiltIn("unet", {"channels": [0]}), r"backbone 'unet': channels\[0\] must be at least 1, got 0"),
        (lambda: BuiltIn("unet", {"channels": 8}), "channels must be auto or a list, got 8"),
        (lambda: BuiltIn("unet", {"patch": "x"}), "patch must be auto or a whole number, got 'x'"),
        (lambda: BuiltIn("unet", {"attention": 1}), "attention must be True or False or a list, got 1"),
        (lambda: BuiltIn("local", {"depth": 2}), "backbone 'local': depth must be at least 3, got 2"),
        (lambda: BuiltIn("local", {"kernel": 5}), "unknown kernel; known: width, depth, dropout"),
    ],
)
def test_wrong_networks_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# Own ones


def test_a_class_a_function_and_names():
    torch.manual_seed(0)
    made = [as_network(Plain), as_network(lambda i, o: Plain(i, o)), OwnNetwork(Plain, {"width": 4})]
    nets = []
    for network in made:
        assert isinstance(network, OwnNetwork)
        torch.manual_seed(0)
        nets.append(network.build(3, SHAPE))
    assert equal(nets[0], nets[1])
    assert equal(nets[0], nets[2])
    named = as_network(Named).build(3, SHAPE, 5)
    assert (named.classes, named.shape, named.embed.num_embeddings) == (5, SHAPE, 6)
    by_name = as_network(lambda in_channels, out_channels: Plain(in_channels, out_channels)).build(3, SHAPE)
    assert by_name.first.in_channels == 3
    assert as_network(functools.partial(Plain, width=7)).build(3, SHAPE).first.out_channels == 7
    assert as_network(UNet).build(3, SHAPE).config["in_channels"] == 3
    assert as_network(LocalNet).build(3, (2, 9)).config["axes"] == 1
    same = as_network(Plain)
    assert as_network(same) is same
    assert same.resolve(SHAPE, SHAPE) is same


def test_a_class_without_config_is_saved():
    net = OwnNetwork(Plain, {"width": 6}).build(3, SHAPE)
    assert net.config == {"c_in": 3, "c_out": 2, "width": 6, "act": "tanh"}
    assert equal(again(net), net)
    assert again(again(net)).config == net.config
    named = as_network(lambda i, o, classes: Named(i, o, classes=classes, shape=SHAPE, act="sin")).build(3, SHAPE, 2)
    assert named.config == {"in_channels": 3, "out_channels": 2, "classes": 2, "shape": SHAPE, "act": "sin"}
    assert equal(again(named), named)
    assert Plain.__init__.__qualname__ == "Plain.__init__"
    assert not hasattr(Plain(1, 1), "config")


def test_a_class_that_inherits_its_constructor_is_saved():
    class Heir(Plain):
        pass

    net = as_network(Heir).build(3, SHAPE)
    assert net.config["c_in"] == 3
    assert "__init__" not in vars(Heir)


def test_the_generators_are_as_after_one_call():
    def make(i, o):
        made.append(random.random())
        return Plain(i, o)

    made = []
    torch.manual_seed(0)
    random.seed(0)
    make(3, 2)
    wanted = torch.rand(1), random.random()
    torch.manual_seed(0)
    random.seed(0)
    as_network(make).build(3, SHAPE)
    assert (torch.rand(1), random.random()) == wanted
    assert made == [made[0]] * 3


def test_a_constructor_that_fails_is_restored():
    calls = []

    def make(i, o):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("second")
        return Plain(i, o)

    init = Plain.__init__
    with pytest.raises(RuntimeError, match="second"):
        as_network(make).build(3, SHAPE)
    assert Plain.__init__ is init


def test_what_cannot_be_saved_names_the_argument():
    class Holds(Plain):
        def __init__(self, c_in, c_out, act):
            super().__init__(c_in, c_out)
            self.act = act

    net = as_network(lambda i, o: Holds(i, o, torch.tanh)).build(3, SHAPE)
    with pytest.raises(TypeError, match="Holds cannot be saved: its argument `act` is a builtin_function_or_method"):
        encode(net)

    class Chain(nn.Sequential):
        def forward(self, x, c_noise, label=None):
            return super().forward(x)

    net = as_network(lambda i, o: Chain(nn.Conv2d(i, o, 1))).build(3, SHAPE)
    with pytest.raises(TypeError, match=r"Chain cannot be saved: it has no `config` .* set self.config"):
        encode(net)
    nested = as_network(lambda i, o: Holds(i, o, build_net("local", 4, (4, 6, 5)))).build
    with pytest.raises(NetworkError, match="fails when called"):
        nested(3, SHAPE)  # an argument that is a network of its own has a config, but is called otherwise


def test_an_unknown_class_is_named():
    net = as_network(Plain).build(3, SHAPE)
    with pytest.raises(ValueError, match=r"cannot build 'Plain'; known: .* pass classes=\[Plain\]"):
        decode(encode(net), NETS)


def test_descriptions_of_own_networks_follow_their_code():
    def said(value, **options):
        return json.dumps(OwnNetwork(value, options).describe())

    def wide(width):
        return lambda i, o: Plain(i, o, width)

    class Other(Plain):
        def forward(self, x, c_noise, label=None):
            return 2 * super().forward(x, c_noise)

    assert said(Plain) == said(Plain)
    assert said(wide(3)) == said(wide(3))
    both = [wide(3), wide(4), Plain, Other, lambda i, o: Plain(i, o, 3), lambda i, o: Other(i, o, 3)]
    assert len({said(f) for f in both} | {said(Plain, width=3)}) == 7
    assert said(functools.partial(Plain, width=3)) != said(functools.partial(Plain, width=4))
    nets = [Plain(3, 3), Plain(3, 3)]
    assert len({said(Plain, net=nets[i], values=(1, torch.ones(1))) for i in (0, 1, 0)}) == 2
    assert said(lambda i, o: nets[0]) != said(lambda i, o: nets[1])
    torch.manual_seed(0)
    a, b = Plain(2, 2), Plain(2, 2)
    described = [as_network(net).describe() for net in (a, b, a)]
    assert described[0] == described[2] != described[1]
    json.dumps(described)


# Modules that are there


def test_a_module_is_copied_and_its_input_widened():
    net = Plain(2, 2)
    network = as_network(net)
    assert isinstance(network, TemplateNetwork)
    same, wider = network.build(2, SHAPE), network.build(5, SHAPE)
    assert isinstance(same, Plain)
    assert same is not net
    assert isinstance(wider, AdaptedInput)
    x = noise(2, 5, *SHAPE[1:])
    assert torch.equal(wider(x, C_NOISE), net(x[:, :2], C_NOISE))
    assert wider.mix.tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    (wider(x, C_NOISE) - 1).square().mean().backward()
    assert wider.mix.grad[:, 2:].abs().min() > 0
    assert net.first.weight.grad is None
    with pytest.raises(
        ValueError, match=r"Plain takes 2 channels, and there are only 1 for samples of shape \(1, 6, 5\)"
    ):
        network.build(1, (1, 6, 5))


def test_a_widened_module_is_saved_where_its_class_says_how_it_is_made():
    net = as_network(build_net("local", 2, SHAPE, width=4)).build(3, SHAPE)
    assert equal(again(net), net)
    with pytest.raises(TypeError, match="Plain cannot be saved: it has no `config`"):
        encode(as_network(Plain(2, 2)).build(3, SHAPE))


def test_a_module_of_vectors_is_widened():
    net = build_net("mlp", 4, (4,), width=8)
    assert as_network(net).build(6, (4,))(noise(2, 6), C_NOISE).shape == (2, 4)


def test_the_channels_a_module_takes():
    class Told(nn.Module):
        in_channels = 7

    assert input_channels(Told()) == 7
    assert input_channels(build_net("local", 3, (2, 8))) == 3
    assert input_channels(Plain(5, 2)) == 5
    assert input_channels(nn.Sequential(nn.Linear(4, 2), nn.Conv1d(3, 2, 1))) == 3
    assert input_channels(nn.Sequential(nn.Linear(4, 2), nn.Conv1d(3, 2, 1)), (4,)) == 4
    with pytest.raises(ValueError, match=r"how many channels ReLU takes cannot be told.*set self\.in_channels"):
        input_channels(nn.ReLU())


# What they must keep


class Still(Plain):
    def __init__(self, *args):
        nn.Module.__init__(self)

    def forward(self, x, c_noise, label=None):
        return x[:, :2]


class Deaf(Plain):
    def forward(self, x, c_noise):
        return super().forward(x, c_noise)


class Narrow(Plain):
    def forward(self, x, c_noise, label=None):
        return super().forward(x, c_noise)[..., 1:]


class Lost(Plain):
    def forward(self, x, c_noise, label=None):
        return super().forward(x, c_noise) / 0


class Pair(Plain):
    def forward(self, x, c_noise, label=None):
        return super().forward(x, c_noise), 0


class Indexed(Plain):
    def forward(self, x, c_noise, label=None):
        return super().forward(x, c_noise) + nn.functional.one_hot(label).sum()


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (Still, "the network Still, for samples .* has no parameters to train; assign its layers"),
        (Deaf, "takes no label: .* `label=None`"),
        (Narrow, r"answers with the shape \(2, 2, 6, 4\) where \(2, 2, 6, 5\) is needed"),
        (Lost, "not finite"),
        (Pair, "answers with a tuple, not a tensor"),
        (Indexed, r"fails when called as .* label \[0, -1\] \(-1: no class\): RuntimeError"),
        (lambda a, b: Plain(a + 1, b), r"RuntimeError: .*expected input\[2, 3, 6, 5\] to have 4 channels"),
        (lambda a, b: 3, "made a int, not a torch module"),
        (lambda a: Plain(a, a), r"\(a\) cannot make a network: too many positional arguments"),
    ],
)
def test_broken_contracts_are_named(cls, said):
    with pytest.raises(ValueError, match=said) as error:
        as_network(cls).build(3, SHAPE, 4)
    assert isinstance(error.value, BootdiffError)  # in a recipe, a mistake of the user's


def test_what_follows_from_the_samples_is_not_given_twice():
    with pytest.raises(ValueError, match="classes follow from the samples; leave them out"):
        OwnNetwork(Named, {"classes": 3}).build(3, SHAPE)


def test_a_check_leaves_the_network_as_it_was():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 2, 1))
    net.forward = lambda x, c_noise, label=None: nn.Sequential.forward(net, x)
    net[1].eval()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    check_network(net, 3, SHAPE)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert torch.equal(state, torch.get_rng_state())


def test_on_the_meta_device_networks_have_shapes_only():
    with torch.device("meta"):
        for network in (as_network("unet"), as_network(Plain), OwnNetwork(Named)):
            assert all(p.is_meta for p in network.build(3, SHAPE).parameters())


def test_a_network_says_what_it_must():
    class Half(Network):
        pass

    with pytest.raises(TypeError, match="build"):
        Half()


def test_a_unet_and_a_local_net_that_are_stacked_divide_the_noise_levels_unless_they_say_so_themselves():
    both = divided({"a": BuiltIn("unet"), "b": BuiltIn("local"), "c": BuiltIn("mlp")})
    usual, own = LogNormal(), LogNormal(0.0, 1.0)
    assert [n.noise_in(usual) for n in both.values()] == [NOISE["unet"], NOISE["local"], usual]
    assert [n.noise_in(own) for n in both.values()] == [own] * 3  # what training settings say is not overruled
    assert NOISE["local"].mean < NOISE["unet"].mean
    assert divided({"a": BuiltIn("local"), "b": BuiltIn("mlp")})["a"].noise_in(usual) == usual
    said = divided({"a": BuiltIn("unet", noise=own), "b": BuiltIn("local")})
    assert [n.noise_in(usual) for n in said.values()] == [own, NOISE["local"]]
    assert said["a"].noise_in(LogNormal(2.0)) == own
    for name, wanted in (("a", own), ("b", NOISE["local"])):
        assert said[name].resolve((1, 16, 16), (1, 16, 16)).noise_in(usual) == wanted
    assert divided({"a": as_network(nn.Linear), "b": BuiltIn("local")})["b"].noise_in(usual) == usual

"""A denoiser as JSON and safetensors and back: every class, the same bits; and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bootdiff.denoise import Denoiser, IsotropicGaussian, ScaledDenoiser
from bootdiff.errors import BootdiffError
from bootdiff.guidance import GuidedDenoiser
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.nets import MLP, AdaptedInput, DiffusersNet, Linear, LocalNet, SignalUNet, UNet, VideoUNet
from bootdiff.pretrained import DiffusersDenoiser
from bootdiff.serialization import CLASSES, load, save
from bootdiff.spec import decode, encode
from bootdiff.views import ChannelMix, Crop, Downsample, Mask, Observed, compose

LEVELS = (0.1, 0.4, 1.6)
FULL = (3, 8, 8)


def white(shape=FULL):
    return IsotropicGaussian(shape, [0.1 * (c + 1) for c in range(shape[0])], 0.45)


def net(kind, inputs, shape, classes=None):
    if kind in (SignalUNet, UNet, VideoUNet):
        return kind(inputs, shape[0], channels=(8, 16), attention=(1,), classes=classes)
    if kind is DiffusersNet:
        args = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 4}
        return DiffusersNet("DiTTransformer2DModel", args, inputs, shape[0], shape[1:], classes)
    if kind is AdaptedInput:
        return AdaptedInput(net(LocalNet, inputs - 1, shape, classes), 1)
    if kind is MLP:
        return MLP(inputs, shape[0], space=shape[1:], width=8, depth=2, classes=classes)
    if kind is Linear:
        return Linear(inputs, shape[0], space=shape[1:], classes=classes)
    return LocalNet(inputs, shape[0], width=8, depth=3, classes=classes, axes=len(shape) - 1)


def none(shape=FULL):
    return CompositeDenoiser({}, white(shape), LEVELS)


def expert(kind=LocalNet, composite=None, extra=0, classes=None, anchor="views"):
    composite = none() if composite is None else composite
    shape, channels = composite.shape, composite.shape[0] + composite.estimate_channels + extra
    built = net(kind, channels, shape, classes)
    return ResidualExpert(built, composite, LEVELS, (0.9, 0.5, 0.3), anchor=anchor)


def alone(kind=LocalNet, shape=FULL, extra=0, classes=None):
    """A separate denoiser: an expert on the prior."""
    composite = none(shape)
    return StackedDenoiser(composite, [expert(kind, composite, extra, classes)], LEVELS)


def viewed(**views):
    """A composite over these views; a masked view's denoiser sees the mask."""
    parts = {n: (v, alone(shape=v.shape(FULL), extra=int(v.masked))) for n, v in views.items()}
    gains = [[0.3 + 0.1 * i + 0.2 * j for j in range(len(views))] for i in range(len(LEVELS))]
    return CompositeDenoiser(parts, white(), LEVELS, gains)


def everything():
    """Every class at once: two views, one of them a stack of its own, snapshots, both kinds of experts."""
    composite = viewed(small=Downsample(2), gray=ChannelMix.gray())
    snapshots = SnapshotsByNoiseLevel([expert(composite=composite) for _ in range(2)], LEVELS, (1, 0, 1))
    experts = [snapshots, expert(UNet, composite, anchor="prior"), expert(MLP)]
    return StackedDenoiser(composite, experts, LEVELS, [[0.5, 0.2, 0.1], [0.0, 0.7, 0.3], [0.4, 0.0, 0.6]])


def frozen():
    """A pretrained network as a view's denoiser, of thumbnails in their own scale."""
    unet = {
        "sample_size": 4, "in_channels": 3, "out_channels": 3, "block_out_channels": [4, 4], "layers_per_block": 1,
        "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "norm_num_groups": 2,
        "add_attention": False, "num_class_embeds": 3,
    }  # fmt: skip
    steps = {"_class_name": "DDPMScheduler", "num_train_timesteps": 50, "beta_end": 0.2}
    part = ScaledDenoiser(DiffusersDenoiser(unet, steps, classes=2), 2.0)
    return CompositeDenoiser({"small": (Downsample(2), part)}, white(), LEVELS)


CASES = {
    "white": white,
    "local": alone,
    "unet": lambda: alone(UNet),
    "mlp": lambda: alone(MLP),
    "diffusers": lambda: alone(DiffusersNet),
    "adapted": lambda: alone(AdaptedInput),
    "vector": lambda: alone(MLP, shape=(5,)),
    "linear": lambda: alone(Linear, shape=(5,)),
    "signal": lambda: alone(SignalUNet, shape=(2, 13), classes=4),
    "local signal": lambda: alone(shape=(2, 13)),
    "video": lambda: alone(VideoUNet, shape=(1, 3, 9, 7), classes=4),
    "local video": lambda: alone(shape=(1, 3, 9, 7)),
    "classes": lambda: alone(UNet, classes=4),
    "no views": lambda: CompositeDenoiser({}, white(), LEVELS),
    "crops": lambda: viewed(crop=Crop((4, 4), stride=2)),
    "mask": lambda: viewed(mask=Mask(box=(2, 2, 3, 3)), small=Downsample(4)),
    "observed": lambda: viewed(noisy=Observed(Downsample(2), 0.2)),
    "composed": lambda: viewed(both=compose(ChannelMix.gray(), Downsample(2))),
    "pretrained": frozen,
    "guided": lambda: GuidedDenoiser(alone(classes=4), 2.0, (0.1, 5.0)),
    "everything": everything,
}


def scrambled(module):
    """Weights away from the start, where the last layers are 0 and nothing would depend on them."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5)
    return module.eval()


def answers(denoiser, label=None):
    """D at several noise levels, also between and beyond those of the gains."""
    g = torch.Generator().manual_seed(2)
    sigma = torch.tensor([0.05, 0.1, 0.3, 0.7, 1.6, 5.0])
    with torch.no_grad():
        return denoiser(torch.randn(6, *denoiser.shape, generator=g), sigma, label)


@pytest.mark.parametrize("name", CASES)
def test_round_trip_gives_the_same_bits(name, tmp_path):
    denoiser = scrambled(CASES[name]())
    label = torch.tensor([0, 1, 2, 3, 0, 1]) if name in ("classes", "guided") else None
    save(denoiser, tmp_path / "new" / "folder")
    again = load(tmp_path / "new" / "folder")
    assert type(again) is type(denoiser)
    assert again.shape == denoiser.shape
    assert not again.training
    want = answers(denoiser, label)
    assert bool(want.isfinite().all())
    assert torch.equal(answers(again, label), want)
    # saving what was loaded writes the same files
    save(again, tmp_path / "second")
    for file in ("model.json", "model.safetensors"):
        assert (tmp_path / "second" / file).read_bytes() == (tmp_path / "new" / "folder" / file).read_bytes()


def test_every_class_is_among_the_cases():
    seen = set()
    for build in CASES.values():
        seen |= {type(m) for m in build().modules()}
    assert set(CLASSES.values()) <= seen


def test_the_answers_depend_on_the_weights(tmp_path):
    """The round trips above would mean nothing if they did not."""
    denoiser = scrambled(everything())
    want = answers(denoiser)
    for part in (denoiser.experts[0].members[0], denoiser.experts[1], denoiser.composite.denoisers["gray"]):
        p = next(part.parameters())
        with torch.no_grad():
            p.add_(1)
        assert not torch.equal(answers(denoiser), want)
        with torch.no_grad():
            p.sub_(1)


def test_only_json_and_safetensors_and_saving_twice_replaces(tmp_path):
    save(scrambled(alone(UNet)), tmp_path)
    denoiser = scrambled(alone())
    save(denoiser, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    assert torch.equal(answers(load(tmp_path)), answers(denoiser))


def test_what_has_no_config_cannot_be_saved(tmp_path):
    class Mine(Denoiser):
        shape = (1,)

        def forward(self, x, sigma, label=None, context=None):
            return x

    with pytest.raises(TypeError, match="Mine cannot be saved"):
        save(Mine(), tmp_path)
    assert not list(tmp_path.iterdir())


# --- what is refused --------------------------------------------------------------------------------------------------


def edit(folder, change):
    path = folder / "model.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


def refused(folder, match):
    with pytest.raises(BootdiffError, match=match) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    save(scrambled(alone()), tmp_path)
    return tmp_path


def test_a_missing_folder_or_file(tmp_path, folder):
    refused(folder / "nowhere", "no model.json in it")
    refused(folder / "model.json", "no model.json in it")
    (folder / "model.safetensors").unlink()
    refused(folder, "no such file")


@pytest.mark.parametrize("name", ["Popen", "os.system", "Denoiser", "dict"])
def test_an_unknown_class_is_not_built(folder, name):
    edit(folder, lambda said: said["denoiser"].update({"class": name}))
    refused(folder, f"cannot build {name!r}; known: .*IsotropicGaussian")


def test_a_class_within_is_checked_too(folder):
    edit(folder, lambda said: said["denoiser"]["args"]["experts"][0]["args"]["net"].update({"class": "Resnet"}))
    refused(folder, "cannot build 'Resnet'")


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.pop("denoiser"),
        lambda said: said.update(denoiser="IsotropicGaussian"),
        lambda said: said.update(denoiser=said["denoiser"]["args"]["experts"][0]),
        lambda said: said["denoiser"]["args"].update(composite=3),
        lambda said: said["denoiser"]["args"].update(colour="red"),
        lambda said: said["denoiser"]["args"].update(weights=[[1.0, 2.0]]),
        lambda said: said["denoiser"]["args"].pop("levels"),
        lambda said: said["denoiser"]["args"]["composite"]["args"]["prior"]["args"].update(sigma_data=-1.0),
        lambda said: said["denoiser"]["args"]["composite"]["args"]["prior"]["args"].update(shape=[]),
    ],
    ids=["no denoiser", "text", "no denoiser class", "composite", "argument", "weights", "levels", "sigma", "shape"],
)
def test_a_model_json_that_cannot_be_built(folder, change):
    edit(folder, change)
    refused(folder, "cannot be built")


@pytest.mark.parametrize("text", ["", "{", "\x00\x01"])
def test_a_model_json_that_is_no_json(folder, text):
    (folder / "model.json").write_text(text)
    refused(folder, "not valid JSON")
    (folder / "model.json").write_bytes(b"\xff\xfe")
    refused(folder, "not valid JSON")


def test_a_model_json_of_another_kind(folder):
    (folder / "model.json").write_text("[1, 2]")
    refused(folder, "cannot be built")


def test_files_of_different_models(tmp_path, folder):
    for name, other in {"unet": alone(UNet), "wide": alone(shape=(1, 8, 8)), "deep": everything()}.items():
        save(other, tmp_path / name)
        (tmp_path / name / "model.json").write_bytes((folder / "model.json").read_bytes())
        refused(tmp_path / name, "do not go together")


def test_a_weight_missing_or_of_another_shape(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file({k: v for k, v in weights.items() if k != name}, path)
    refused(folder, "1 weight.s. missing, 0 unknown, 0 of another shape")
    save_file({**weights, name: weights[name][:1]}, path)
    refused(folder, "0 weight.s. missing, 0 unknown, 1 of another shape")
    save_file({**weights, "more": torch.ones(1)}, path)
    refused(folder, "0 weight.s. missing, 1 unknown, 0 of another shape")


def test_a_damaged_weights_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    refused(folder, "not a readable safetensors file")


# --- encode and decode ------------------------------------------------------------------------------------------------


class Pair:
    """Its config is a method, and holds another object in a list."""

    def __init__(self, left, right):
        self.left, self.right = left, right

    def config(self):
        return {"left": self.left, "right": self.right}


def test_encode_and_decode_nested_values():
    value = {"a": [1, 2.5, "x", None, True], "pair": Pair([Pair(1, None)], {"deep": (1, 2)})}
    spec = encode(value)
    assert json.loads(json.dumps(spec)) == spec
    assert spec["pair"]["class"] == "Pair"
    again = decode(spec, {"Pair": Pair})
    assert again["a"] == value["a"]
    assert isinstance(again["pair"].left[0], Pair)
    assert again["pair"].left[0].left == 1
    assert again["pair"].right == {"deep": [1, 2]}
    assert encode(again) == spec


def test_encode_refuses_what_it_cannot_describe():
    with pytest.raises(TypeError, match="set cannot be saved"):
        encode({"a": [{1, 2}]})


def test_decode_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="cannot build 'Pair'; known: A, B"):
        decode([encode(Pair(1, 2))], {"B": Pair, "A": Pair})

"""A denoiser as JSON and safetensors and back: every class, the same bits; and what is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bootdiff.denoise import Denoiser, IsotropicGaussian, ScaledDenoiser
from bootdiff.errors import BootdiffError
from bootdiff.guidance import GuidedDenoiser
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.gaussian import GaussianDenoiser
from bootdiff.method.losses import LossModule
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.nets import MLP, AdaptedInput, DiffusersNet, Linear, LocalNet, SignalUNet, UNet, VideoUNet
from bootdiff.pretrained import DiffusersDenoiser
from bootdiff.serialization import CLASSES, load, save
from bootdiff.spec import decode, encode
from bootdiff.training.files import stamped
from bootdiff.training.run import Run
from bootdiff.views import ChannelMix, Crop, Downsample, Identity, Mask, Observed, View, compose

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
    """Every class at once: two views, one of them itself a stack, snapshots, both kinds of experts."""
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
    "gaussian": lambda: GaussianDenoiser((1, 8, 8), 5),
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


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weight_files(folder):
    return sorted((folder / "weights").iterdir())


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
    assert files(tmp_path / "second") == files(tmp_path / "new" / "folder")


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
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "weights"]
    (file,) = weight_files(tmp_path)
    assert file.name == f"{hashlib.sha256(file.read_bytes()).hexdigest()[:24]}.safetensors"
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
    """Another model.json, with the checksum that goes with it: what is refused is refused for what it says."""
    path = folder / "model.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(stamped(said)))


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
    (file,) = weight_files(folder)
    file.unlink()
    refused(folder, rf"{file}: no such file, but model\.json names it")


@pytest.mark.parametrize("name", ["Popen", "os.system", "Denoiser", "dict"])
def test_an_unknown_class_is_not_built(folder, name):
    edit(folder, lambda said: said["denoiser"].update({"class": name}))
    refused(folder, rf"model\.json: cannot build {name!r}, no class of bootdiff .*classes=\[{name}\]")


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
    refused(folder, "cannot be built|not what bootdiff wrote")


@pytest.mark.parametrize("text", ["", "{", "\x00\x01"])
def test_a_model_json_that_is_no_json(folder, text):
    (folder / "model.json").write_text(text)
    refused(folder, "not JSON")
    (folder / "model.json").write_bytes(b"\xff\xfe")
    refused(folder, "not JSON")


@pytest.mark.parametrize("text", ["[1, 2]", "null", "{}", '{"format": 99}', '{"format": true}', '{"format": "2"}'])
def test_a_model_json_of_another_kind(folder, text):
    (folder / "model.json").write_text(text)
    refused(folder, r"its format .* is not known to bootdiff .*use the version that wrote it")


def test_the_format_of_the_first_version_is_named_with_what_opens_it(folder):
    edit(folder, lambda said: said.update(format=1))
    refused(folder, r"written by bootdiff 0\.1 .*that version, or train again")


def test_a_model_json_that_was_changed_is_refused(folder):
    """Also in what only changes the samples: a weight of the stack, a noise level."""
    path = folder / "model.json"
    said = path.read_text()
    for old, new in (
        ('"sigma_data": ', '"sigma_data": 1'),
        ('"format": 3', '"format": 2'),
        ('"checksum"', '"checksun"'),
    ):
        assert old in said
        path.write_text(said.replace(old, new))
        refused(folder, "checksum|not what bootdiff wrote")
    stripped = {key: value for key, value in json.loads(said).items() if key != "checksum"}
    path.write_text(json.dumps(stripped))
    refused(folder, "its checksum is lost")
    # The format before had none.
    path.write_text(json.dumps(stripped | {"format": 2}))
    load(folder)


def test_a_model_json_of_endless_depth(folder):
    deep = '{"a": ' * 100_000
    (folder / "model.json").write_text(deep)
    refused(folder, "not JSON")
    edit_text = '{"format": 2, "weights": {}, "denoiser": {"a": ' + "[" * 900 + "]" * 900 + "}}"
    (folder / "model.json").write_text(edit_text)
    refused(folder, "cannot be built")


def test_weights_that_are_swapped_truncated_or_flipped_are_named(folder, tmp_path):
    save(scrambled(everything()), tmp_path / "many")
    first, second, *_ = weight_files(tmp_path / "many")
    data, other = first.read_bytes(), second.read_bytes()
    for damaged in (other, data[:-1], data[:100], b"", data[:-3] + bytes([data[-3] ^ 1]) + data[-2:], data + b"x"):
        first.write_bytes(damaged)
        refused(tmp_path / "many", rf"{first}: damaged or another file \(its SHA-256 is not what model\.json says\)")
    first.write_bytes(data)
    load(tmp_path / "many")


def test_files_of_different_models(tmp_path, folder):
    for name, other in {"unet": alone(UNet), "wide": alone(shape=(1, 8, 8)), "deep": everything()}.items():
        save(other, tmp_path / name)
        (tmp_path / name / "model.json").write_bytes((folder / "model.json").read_bytes())
        refused(tmp_path / name, "no such file, but model.json names it")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda said: said.pop("weights"), r"not what bootdiff wrote \(weights: Field required\)"),
        (lambda said: said.update(weights=3), r"not what bootdiff wrote \(weights: "),
        (lambda said: said.update(weights={}), "names no weights for some of its parts"),
        (
            lambda said: said["weights"].update(more={"file": f"weights/{'0' * 24}.safetensors", "sha256": ""}),
            "weights for parts that it has",
        ),
        (
            lambda said: said["weights"].update(dict.fromkeys(said["weights"], 3)),
            r"not what .* wrote \(weights\.",
        ),
        (
            lambda said: next(iter(said["weights"].values())).update(file=f"weights/../../{'0' * 24}.safetensors"),
            r"weights\..*file: String should match pattern",
        ),
        (lambda said: next(iter(said["weights"].values())).update(sha256=None), r"weights\..*sha256: Input should be"),
        (lambda said: next(iter(said["weights"].values())).update(sha256="0" * 64), "damaged or another file"),
        (lambda said: said.update(more=1), r"not what bootdiff wrote \(more: "),
    ],
)
def test_a_model_json_whose_weights_are_not_its_own(folder, change, text):
    edit(folder, change)
    refused(folder, text)


def rewrite(folder, change):
    """Other weights with a model.json that agrees with them."""
    (path,) = weight_files(folder)
    save_file(change(load_file(path)), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(folder, lambda said: next(iter(said["weights"].values())).update(sha256=sha256))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda w: dict(list(w.items())[1:]), "1 weight.s. missing, 0 unknown, 0 of another shape"),
        (lambda w: {k: v[:1] for k, v in w.items()}, r"0 weight.s. missing, 0 unknown, [1-9]\d* of another shape"),
        (lambda w: w | {"more": torch.ones(1)}, "0 weight.s. missing, 1 unknown, 0 of another shape"),
        (lambda w: {k: v.long() for k, v in w.items()}, r"0 weight.s. missing, 0 unknown, [1-9]\d* of another shape"),
    ],
    ids=["missing", "shape", "unknown", "kind"],
)
def test_weights_of_another_network(folder, change, text):
    rewrite(folder, change)
    refused(folder, text)


# --- what is held twice -----------------------------------------------------------------------------------------------


def test_a_part_that_is_held_twice_is_written_once_and_is_one_object_again(tmp_path):
    """One denoiser for two views, and one composite for a stack and its experts."""
    half, part = alone(shape=(3, 8, 4)), alone()
    inner = CompositeDenoiser({"a": (Identity(), part), "b": (Identity(), part)}, white(), LEVELS)
    left, right = (Crop((8, 4), offset=(0, at)) for at in (0, 4))
    outer = CompositeDenoiser(
        {"left": (left, half), "right": (right, half), "whole": (Identity(), inner)}, white(), LEVELS
    )
    denoiser = scrambled(StackedDenoiser(outer, [expert(composite=outer), expert(composite=outer)], LEVELS))
    save(denoiser, tmp_path)
    assert len(weight_files(tmp_path)) == 4  # of half, part and two experts
    text = (tmp_path / "model.json").read_text()
    again = load(tmp_path)
    composite = again.composite
    assert composite.denoisers["left"] is composite.denoisers["right"]
    assert composite.denoisers["whole"].denoisers["a"] is composite.denoisers["whole"].denoisers["b"]
    assert all(e.composite is composite for e in again.experts)
    assert torch.equal(answers(again), answers(denoiser))
    assert len(list(again.parameters())) == len(list(denoiser.parameters()))
    save(again, tmp_path / "second")
    assert (tmp_path / "second" / "model.json").read_text() == text


def test_networks_that_are_the_same_share_a_file(tmp_path):
    """Also where they are two objects, as a view's denoiser that another one took over."""
    part = scrambled(alone())
    twice = {"a": (Identity(), part), "b": (Identity(), copy.deepcopy(part))}
    denoiser = CompositeDenoiser(twice, white(), LEVELS)
    save(denoiser, tmp_path)
    assert len(weight_files(tmp_path)) == 1
    again = load(tmp_path)
    assert again.denoisers["a"] is not again.denoisers["b"]
    assert torch.equal(answers(again), answers(denoiser))


@pytest.mark.parametrize("ref", ["nowhere", "composite.prior", 3, None])
def test_a_reference_to_nothing(folder, ref):
    edit(folder, lambda said: said["denoiser"]["args"].update(composite={"ref": ref}))
    refused(folder, "cannot be built")


# --- own classes ------------------------------------------------------------------------------------------------------


class MyNet(nn.Module):
    """A network of one's own: a buffer, tied weights, and its arguments as config."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.config = {"inputs": inputs, "outputs": outputs}
        self.first, self.last = nn.Conv2d(inputs, 4, 1), nn.Conv2d(4, outputs, 1)
        self.again = self.first
        self.register_buffer("shift", torch.zeros(1))

    def forward(self, x, c_noise, label=None):
        return self.last(self.first(x) + self.again(x)) + self.shift


class MyDenoiser(Denoiser):
    """A denoiser of one's own, with weights beside those of the part that it holds."""

    def __init__(self, inner, gain):
        super().__init__()
        self.inner, self.shape, self.config = inner, inner.shape, {"inner": inner, "gain": gain}
        self.scale = nn.Parameter(torch.tensor([float(gain)]))

    def forward(self, x, sigma, label=None, context=None):
        return self.scale * self.inner(x, sigma, label, context)


class MyView(View):
    """A view of one's own: every second row."""

    def __init__(self, first):
        self.first = first

    def shape(self, full):
        return full[0], full[1] // 2, full[2]

    def forward(self, x):
        return x[:, :, self.first :: 2]

    def adjoint(self, y, full):
        x = y.new_zeros(len(y), *full)
        x[:, :, self.first :: 2] = y
        return x


def own():
    rows = CompositeDenoiser({"rows": (MyView(1), alone(shape=(3, 4, 8)))}, white(), LEVELS)
    net = ResidualExpert(MyNet(6, 3), rows, LEVELS, (0.9, 0.5, 0.3))
    denoiser = scrambled(MyDenoiser(StackedDenoiser(rows, [net], LEVELS), 0.5))
    net.net.shift.fill_(0.25)
    return denoiser


def test_own_classes_are_known_by_their_names(tmp_path):
    denoiser = own()
    save(denoiser, tmp_path)
    assert len(weight_files(tmp_path)) == 3
    again = load(tmp_path, classes=[MyNet, MyDenoiser, MyView])
    assert torch.equal(answers(again), answers(denoiser))
    assert again.inner.experts[0].net.shift == 0.25
    assert again.inner.composite.views["rows"].first == 1
    for missing in (MyNet, MyDenoiser, MyView):
        known = [cls for cls in (MyNet, MyDenoiser, MyView) if cls is not missing]
        with pytest.raises(BootdiffError, match=rf"model\.json: .*{missing.__name__}.*classes=\[{missing.__name__}\]"):
            load(tmp_path, classes=known)


# --- in a run ---------------------------------------------------------------------------------------------------------


def test_in_a_run_weights_are_those_of_its_stages(tmp_path):
    member = scrambled(expert())
    with Run.open(tmp_path / "run", "x: 1") as run:
        stage = run.stage("full-local")
        stage.save_weights("final.safetensors", LossModule(member).state_dict())
        denoiser = StackedDenoiser(member.composite, [member], LEVELS)
        for arm in ("bootdiff", "full_only"):
            save(denoiser, run.path / arm)
        inodes = {path.stat().st_ino for path in run.path.rglob("*.safetensors")}
        assert len(inodes) == 1
        run.pool.sweep()
        assert len(list(run.pool.path.iterdir())) == 1
    shutil.copytree(run.path / "bootdiff", tmp_path / "copy")
    shutil.rmtree(run.path / "stages")
    assert torch.equal(answers(load(tmp_path / "copy")), answers(denoiser))


def test_a_run_is_its_arm_bootdiff_or_the_only_one(tmp_path):
    with Run.open(tmp_path / "run", "x: 1") as run:
        with pytest.raises(BootdiffError, match="this run has no arm yet"):
            load(run.path)
        arms = {arm: scrambled(alone(shape=(1, 8, n))) for arm, n in (("oracle", 4), ("distilled", 6), ("bootdiff", 8))}
        save(arms["oracle"], run.path / "oracle")
        assert load(run.path).shape == (1, 8, 4)
        save(arms["distilled"], run.path / "distilled")
        with pytest.raises(
            BootdiffError, match=r"no arm bootdiff, but distilled, oracle; name one of them: --arm distilled"
        ):
            load(run.path)
        save(arms["bootdiff"], run.path / "bootdiff")
        assert load(run.path).shape == (1, 8, 8)


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

"""Models of diffusers as backbones: built, called, saved, trained; and only those."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from bootdiff.nets import NETS, DiffusersNetwork
from bootdiff.spec import decode, encode
from net_calls import C_NOISE, noise

UNET = {
    "block_out_channels": [8, 16], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 4, "layers_per_block": 1,
}  # fmt: skip
DIT = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}
SIGNAL = {"block_out_channels": [32, 32, 32]}
VIDEO = {
    "block_out_channels": [8, 16], "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"], "norm_num_groups": 4, "cross_attention_dim": 8,
    "attention_head_dim": 4, "layers_per_block": 1,
}  # fmt: skip
# Odd sizes: nothing is a multiple of levels or patches, or square.
CASES = [
    ("UNet2DModel", UNET, (2, 9, 7), None),
    ("UNet2DModel", UNET, (2, 9, 7), 3),
    ("DiTTransformer2DModel", DIT, (2, 9, 7), None),
    ("DiTTransformer2DModel", DIT, (2, 9, 7), 3),
    ("UNet1DModel", SIGNAL, (2, 45), None),
    ("UNet3DConditionModel", VIDEO, (1, 3, 6, 5), None),
]
every_case = pytest.mark.parametrize(("name", "args", "shape", "classes"), CASES, ids=lambda v: str(v)[:20])


def build(name, args, shape, classes):
    torch.manual_seed(0)
    return DiffusersNetwork(name, args).resolve(shape, shape).build(shape[0] + 1, shape, classes)


@every_case
def test_a_model_starts_at_zero_and_learns(name, args, shape, classes):
    net, x = build(name, args, shape, classes).train(), noise(2, shape[0] + 1, *shape[1:])
    label = None if classes is None else torch.tensor([1, -1])
    optimizer, target = torch.optim.Adam(net.parameters(), 3e-3), noise(2, *shape, seed=1)
    y = net(x, C_NOISE, label)
    assert y.shape == (2, *shape)
    assert (y == 0).all()
    losses = []
    for _ in range(4):
        loss = (net(x, C_NOISE, label) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    net.eval()
    assert (net(x, C_NOISE + 0.1, label) - net(x, C_NOISE, label)).abs().max() > 1e-7  # hears the noise level

    again = decode(json.loads(json.dumps(encode(net))), NETS).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x, C_NOISE, label), net(x, C_NOISE, label))
    assert again.config == net.config


@pytest.mark.parametrize(("name", "args"), [("UNet2DModel", UNET), ("DiTTransformer2DModel", DIT)])
def test_classes_are_heard_and_so_is_their_absence(name, args):
    net, x = build(name, args, (1, 8, 8), 3).eval(), noise(1, 2, 8, 8).expand(4, -1, -1, -1)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.2)
    y = net(x, torch.zeros(4), torch.tensor([0, 1, 2, -1]))
    assert all((y[i] - y[j]).abs().max() > 1e-4 for i in range(4) for j in range(i))
    torch.testing.assert_close(net(x[:1], torch.zeros(1)), y[3:])
    net.train()  # diffusers' own dropping of labels is off
    torch.testing.assert_close(net(x, torch.zeros(4), torch.tensor([0, 1, 2, -1])), y)


def test_of_mean_and_variance_the_mean_is_taken():
    net = build("DiTTransformer2DModel", DIT, (1, 8, 8), None)
    model = type(net.model)
    wide = model(**DIT, in_channels=2, out_channels=2, sample_size=8, num_embeds_ada_norm=1)
    net.model = wide
    y = net(noise(2, 2, 8, 8), C_NOISE)
    assert y.shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("name", "args", "shape", "classes", "said"),
    [
        ("UNet2D", {}, (1, 8, 8), None, r"no model class 'UNet2D' \(did you mean 'UNet2DModel'\?\)"),
        ("StableDiffusionPipeline", {}, (1, 8, 8), None, "no model class 'StableDiffusionPipeline'"),
        ("os.system", {}, (1, 8, 8), None, "no model class 'os.system'"),
        ("torch", {}, (1, 8, 8), None, "no model class 'torch'"),
        ("ModelMixin", {}, (1, 8, 8), None, "diffusers"),
        ("UVit2DModel", {}, (1, 8, 8), None, "also needs pooled_text_emb, micro_conds"),
        ("AutoencoderKL", {}, (1, 8, 8), None, "hears no timestep"),
        ("UNet2DModel", {"layers": 1}, (1, 8, 8), None, "unknown layers; known: .*layers_per_block"),
        ("UNet2DModel", {"in_channels": 1}, (1, 8, 8), None, "in_channels follow from the samples; leave them out"),
        ("UNet2DModel", {**UNET, "norm_num_groups": 5}, (1, 8, 8), None, "refuses its arguments .*divisible"),
        ("UNet2DModel", UNET, (1, 4, 8, 8), None, "the network diffusers' UNet2DModel, .* fails when called"),
        ("UNet2DModel", UNET, (5,), None, "for vectors: mlp, linear"),
        ("UNet1DModel", SIGNAL, (1, 32), 2, "UNet1DModel knows no classes, and there are 2"),
    ],
)
def test_what_does_not_fit_is_refused(name, args, shape, classes, said):
    with pytest.raises(ValueError, match=said):
        build(name, args, shape, classes)


def test_a_description_says_all():
    network = DiffusersNetwork("UNet2DModel", UNET)
    assert json.loads(json.dumps(network.describe())) == {"kind": "diffusers", "class": "UNet2DModel", "args": UNET}


def test_diffusers_is_imported_when_a_model_is_built():
    code = (
        "import sys; from bootdiff.nets import DiffusersNetwork, as_network; "
        "DiffusersNetwork('UNet2DModel').describe(); "
        "as_network('local').build(1, (1, 8, 8)); assert 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""Feature networks: trained ones tell classes and corruption apart and repeat; others load safely or say why not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from bootdiff.data import Arrays, load_digits
from bootdiff.errors import BootdiffError
from bootdiff.evaluation.features import Features, Preparation, load_features
from bootdiff.evaluation.metrics import frechet_distance


@pytest.fixture(scope="module", name="digits")
def _digits():
    return load_digits("train", labels=True), load_digits("test", labels=True)


def blobs(n: int, channels: int = 3, side: int = 32, labels: bool = True) -> Arrays:
    """Two classes of random low-frequency pictures: bright at the left, bright at the right."""
    rng = np.random.default_rng(0)
    which = rng.integers(0, 2, n)
    ramp = np.linspace(-1, 1, side)[None, None, :, None]
    coarse = rng.normal(size=(n, 4, 4, channels)).repeat(side // 4, 1).repeat(side // 4, 2)
    x = np.clip(0.5 * ramp * (2 * which - 1)[:, None, None, None] + 0.3 * coarse, -1, 1)
    return Arrays(x.astype(np.float32), labels=which if labels else None, range=(-1, 1))


def test_classifier_on_digits(digits):
    train, test = digits
    features = load_features("auto", train, steps=150)
    assert features.name.startswith("classifier of the data, 64 features, held-out accuracy 0.9")
    every, b = features.extract(train), features.extract(test)
    assert b.shape == (300, 64)
    assert b.dtype == np.float64
    # nearest class mean in feature space: the features do know the classes
    labels = np.array([train[i].label for i in range(len(train))])
    truth = np.array([test[i].label for i in range(300)])
    means = np.stack([every[labels == k].mean(0) for k in range(10)])
    guess = ((b[:, None] - means) ** 2).sum(2).argmin(1)
    assert (guess == truth).mean() > 0.9
    # and the distance grows with corruption
    x = torch.stack([test[i].x for i in range(300)])
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    distances = [frechet_distance(every, features.extract((x + s * noise).clamp(-1, 1))) for s in (0, 0.5, 0.8)]
    assert 5 * distances[0] < 2 * distances[1] < distances[2]


def test_autoencoder_needs_no_labels(digits):
    train, _ = digits
    features = load_features("autoencoder", train, steps=150, dim=16)
    assert float(features.name.split("R2 ")[1].split(",")[0]) > 0.6
    z = features.extract(train)
    assert z.shape == (len(train), 16)
    np.testing.assert_allclose(z.std(0), 1, atol=0.1)  # in units of the data's own spread


@pytest.mark.parametrize("kind", ["classifier", "autoencoder"])
def test_training_repeats_and_leaves_no_trace(kind):
    source = blobs(80, channels=1, side=8)
    state = torch.random.get_rng_state()
    first, again, other = (load_features(kind, source, steps=5, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.name == again.name != other.name
    x = torch.stack([source[i].x for i in range(5)])
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 28, 28), (3, 32, 32), (3, 12, 20)])
@pytest.mark.parametrize("kind", ["classifier", "autoencoder"])
def test_any_picture_size(kind, shape):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (40, *shape[1:], shape[0])).astype(np.float32)
    features = load_features(kind, Arrays(x, labels=np.arange(40) % 3, range=(-1, 1)), steps=3, dim=7, width=8)
    assert features.extract(torch.zeros(6, *shape), batch_size=4).shape == (6, 7)


def test_colour_pictures_are_learned_in_seconds():
    features = load_features("classifier", blobs(200), steps=25, width=16)
    assert "accuracy 1.000" in features.name


def test_save_and_load(tmp_path):
    source = blobs(60, side=8)
    features = load_features("classifier", source, steps=4)
    features.save(tmp_path / "features.safetensors")
    again = load_features(tmp_path / "features.safetensors", source)
    assert again.name == features.name
    np.testing.assert_array_equal(again.extract(source), features.extract(source))
    with pytest.raises(BootdiffError, match="trained on"):
        load_features(tmp_path / "features.safetensors", blobs(20, side=16))


def test_extract_takes_tensors_sources_and_batches():
    source = blobs(20, side=8)
    x = torch.stack([source[i].x for i in range(20)])
    features = Features("mean", lambda x: x.mean((2, 3)))
    expected = x.double().mean((2, 3)).numpy()
    for images in (x, source, iter(x.split(7))):
        np.testing.assert_allclose(features.extract(images, batch_size=6), expected, atol=1e-6)
    np.testing.assert_array_equal(features(torch.full((1, 3, 4, 4), 9.0)), torch.ones(1, 3))  # clipped as when saved
    pooled = Features("map", lambda x: x)
    assert pooled(x).shape == (20, 3)


def script(net: nn.Module, example: torch.Tensor, path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(net, example).save(str(path))


def test_torchscript(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    script(net, torch.zeros(1, 3, 12, 12), tmp_path / "net.pt")
    source = blobs(10, channels=1, side=8)
    features = load_features(
        tmp_path / "net.pt",
        source,
        preparation={"size": 12, "channels": 3, "range": "unit", "mean": [0.5] * 3, "std": [0.2] * 3},
    )
    assert features.name.startswith("net.pt, range unit, size 12, channels 3")
    assert str(tmp_path) not in features.name
    flat = torch.full((2, 1, 8, 8), 0.5)  # 0.75 in [0, 1]
    torch.testing.assert_close(features(flat), net(torch.full((2, 3, 12, 12), 0.25 / 0.2)).detach())
    with pytest.raises(ValueError, match="nothing to save"):
        features.save(tmp_path / "copy.safetensors")
    with pytest.raises(BootdiffError, match=r"images of shape \(1, 8, 8\).*preparation"):
        load_features(tmp_path / "net.pt", source)


def test_diffusers_autoencoder(tmp_path):
    from diffusers import AutoencoderKL

    net = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    net.save_pretrained(tmp_path / "vae")
    source = blobs(8, side=16)
    features = load_features(tmp_path / "vae", source)
    x = torch.stack([source[i].x for i in range(8)])
    expected = nn.functional.avg_pool2d(net.eval().encode(x).latent_dist.mean, 2).flatten(1)
    np.testing.assert_allclose(features.extract(source), expected.detach().double(), atol=1e-5)
    (tmp_path / "vae" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(BootdiffError, match="UNet2DModel in config"):
        load_features(tmp_path / "vae")


def test_pickles_are_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    for name in ("net.pt", "net.pth", "net.bin", "net.ckpt", "net.pt2"):
        torch.save({"weights": torch.zeros(2), "bomb": Bomb()}, tmp_path / name)
        with pytest.raises(BootdiffError, match="pickles"):
            load_features(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_preparation():
    x = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
    assert Preparation()(x) is x
    assert Preparation(range="byte")(x).flatten().tolist() == [0, 128, 255]
    assert Preparation(range="byte")(x).dtype == torch.uint8
    assert Preparation(range="unit", channels=3)(x)[0, 2].flatten().tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match="2 channels, the network takes 3"):
        Preparation(channels=3)(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="byte"):
        Preparation(range="byte", mean=[0.5])
    with pytest.raises(ValueError, match="range must be"):
        Preparation(range="0..1")


def test_errors(tmp_path):
    bare = blobs(30, side=8, labels=False)
    with pytest.raises(BootdiffError, match=r'no labels.*"autoencoder"'):
        load_features("classifier", bare)
    with pytest.raises(BootdiffError, match="at least 20"):
        load_features("autoencoder", blobs(10, side=8))
    with pytest.raises(BootdiffError, match="only one class"):
        load_features("classifier", Arrays(np.zeros((30, 8, 8), np.uint8), labels=np.zeros(30, int)))
    with pytest.raises(BootdiffError, match="no such file"):
        load_features("inception")
    with pytest.raises(ValueError, match="pass the source"):
        load_features("autoencoder")
    with pytest.raises(ValueError, match="preparation"):
        load_features("autoencoder", bare, preparation=Preparation(size=9))
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, tmp_path / "dino.safetensors")
    with pytest.raises(BootdiffError, match="without an architecture"):
        load_features(tmp_path / "dino.safetensors")
    features = Features("f", lambda x: x.flatten(1)[:1])
    with pytest.raises(ValueError, match="it must give"):
        features(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="not finite"):
        features(torch.full((2, 1, 4, 4), torch.nan))
    with pytest.raises(ValueError, match="no images"):
        features.extract([])
    with pytest.raises(ValueError, match=r"must be a batch \(B, C, ...\)"):
        features(torch.zeros(4))


@pytest.mark.parametrize("shape", [(2, 40), (1, 4, 8, 8), (3, 9, 5)], ids=str)
def test_an_autoencoder_of_any_kind(shape, tmp_path):
    """Signals, videos and odd pictures: better than the mean, the same again after saving."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(-0.5, 0.5, np.prod(shape)).reshape(1, *shape[1:], shape[0])  # channels last
    x = (ramp * rng.uniform(-1, 1, (120, *[1] * len(shape)))).astype(np.float32)
    kind = {2: "signal", 3: "image", 4: "video"}[len(shape)]
    source = Arrays(x, kind=kind, range=(-1, 1))
    assert len(source.shape) == len(shape)
    features = load_features("auto", source, steps=100, dim=4, width=8)
    score = float(features.name.split("R2 ")[1].split(",")[0])
    assert score > 0.6
    features.save(tmp_path / "f.safetensors")
    batch = source.batch(range(5))[0]
    torch.testing.assert_close(load_features(tmp_path / "f.safetensors")(batch), features(batch))


def test_the_features_of_vectors_are_their_columns(tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 3)) * [1, 20, 300] + [0, 5, -7]
    source = Arrays(x.astype(np.float32), kind="vector", standardize=True)
    features = load_features("auto", source)
    assert features.name.startswith("the 3 columns over their deviations")
    z = features.extract(source)
    np.testing.assert_allclose((z.mean(0), z.std(0, ddof=1)), ((0, 0, 0), (1, 1, 1)), atol=1e-5)
    features.save(tmp_path / "f.safetensors")
    np.testing.assert_allclose(load_features(tmp_path / "f.safetensors").extract(source), z)

"""Data that Python already holds: tensors, arrays, torch data sets of all forms; what cannot be used is named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.data import Arrays, Batches, Sample, Simulated, as_dataset, measure
from bootdiff.data.readers import tensors
from bootdiff.data.readers.torch_dataset import TorchDataset
from bootdiff.errors import BootdiffError
from bootdiff.views import Downsample

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 3, 6, 8), dtype=np.uint8)
X = torch.from_numpy(PIXELS).float() / 127.5 - 1
Y = torch.arange(12) % 3


class Listed(torch.utils.data.Dataset):
    """A map-style data set that counts its reads."""

    def __init__(self, samples, **attributes) -> None:
        self.samples, self.reads = list(samples), []
        self.__dict__ |= attributes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int):
        self.reads.append(index)
        return self.samples[index]


def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.moveaxis(pixels, 0, -1))


def refused(value, *said: str, **options) -> None:
    with pytest.raises(BootdiffError) as caught:
        as_dataset(value, **options)
    for text in said:
        assert text in str(caught.value), caught.value


# --- tensors and arrays ---


@pytest.mark.parametrize(
    "value",
    [X, X.numpy(), X.double(), X.numpy().astype(">f8"), X.clone().requires_grad_(), X.flip(-1).numpy()[..., ::-1]],
    ids=["tensor", "array", "double", "big-endian", "with gradient", "negative strides"],
)
def test_floats_are_taken_as_they_are(value):
    dataset = as_dataset(value)
    assert (len(dataset), dataset.shape, dataset.kind) == (12, (3, 6, 8), "image")
    x, labels, masks = dataset.batch([3, 0, 3])
    assert torch.equal(x, X[[3, 0, 3]])
    assert labels is None
    assert masks is None
    assert x.dtype == torch.float32
    assert not x.requires_grad
    assert torch.equal(dataset[5].x, X[5])
    assert dataset.name(5) == "sample 5"


def test_a_data_set_is_returned_as_it_is():
    dataset = Arrays(np.moveaxis(PIXELS, 1, -1))
    assert as_dataset(dataset) is dataset
    with pytest.raises(TypeError, match="takes no options; got labels"):
        as_dataset(dataset, labels=Y)


def test_half_precision():
    half = X.bfloat16()
    assert torch.equal(as_dataset(half).batch([0, 1])[0], half[:2].float())


@pytest.mark.parametrize("value", [PIXELS, torch.from_numpy(PIXELS)], ids=["array", "tensor"])
def test_bytes_become_minus_one_to_one(value):
    x = as_dataset(value).batch(range(12))[0]
    torch.testing.assert_close(x, X, atol=1e-6, rtol=0)
    assert as_dataset(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))[0].x.flatten().tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("shape", "kind"), [((5, 7), "vector"), ((5, 2, 70), "signal"), ((5, 1, 8, 8), "image"), ((5, 3, 6, 8, 8), "video")]
)
def test_axes_tell_the_kind(shape, kind):
    assert as_dataset(torch.rand(shape)).kind == kind
    assert as_dataset(torch.rand(shape), kind=kind).shape == shape[1:]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.rand(5), ["shape 5;", "n x C"]),
        (torch.rand(0, 3, 8, 8), ["is empty"]),
        (torch.rand(5, 3, 0, 8), ["is empty (shape 5 x 3 x 0 x 8)"]),
        (torch.rand(5, 32, 24, 3), ["means 32 channels", "torch.movedim(x, -1, 1)", "kind='image'"]),
        (torch.rand(5, 16, 3, 32, 32), ["means 16 channels", "torch.movedim(x, 2, 1)"]),
        (torch.rand(5, 28, 28), ["could be two things", "x[:, None]", "kind='signal'"]),
        (127.5 * (X + 1), ["values run from 0", "to 255", "2 * x / 255 - 1", "or say range=[low, high]."]),
        (PIXELS.astype(np.float32) * 257, ["2 * x / 65535 - 1"]),
        (100 * X, ["from -100 to 100", "2 * (x - low) / (high - low) - 1", "range=[low, high]"]),
        (3 * torch.randn(50, 7), ["or standardize=True"]),
        (np.array([["a"]]), ["type <U1"]),
        (torch.zeros(3, 1, 2, 2, dtype=torch.complex64), ["complex64"]),
        (torch.zeros(3, 1, 2, 2).to_sparse(), ["dense real numbers"]),
        (torch.zeros(3, 1, 2, 2, dtype=torch.int64), ["int64 values have no usual range"]),
    ],
    ids=lambda v: "" if isinstance(v, list) else str(tuple(v.shape)),
)
def test_tensors_that_cannot_be_used(value, said):
    refused(value, "mine: ", *said, where="mine")


def test_wrong_kind():
    refused(X, "n x 3 x 6 x 8 is of kind image (channels first), not video", kind="video")
    with pytest.raises(ValueError, match="kind must be one of"):
        as_dataset(X, kind="film")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(bad, monkeypatch):
    monkeypatch.setattr(tensors, "_CHUNK", 5 * 3 * 6 * 8)  # five samples at a time
    x = X.clone()
    x[7, 1, 2, 3] = bad
    refused(x, "sample 7 holds NaN or infinite values", "missing='mask'")
    refused(127.5 * (X + 1), "values run from 0 to 255", "first in sample 0")


def test_rounding_is_no_mistake():
    assert len(as_dataset(X * (1 + 1e-5))) == 12


def test_units_of_other_values():
    table = torch.from_numpy(RNG.normal([5, -2], [3, 0.1], (200, 2)))
    dataset = as_dataset(table, standardize=True)
    x = dataset.batch(range(200))[0]
    torch.testing.assert_close(x.std(0, unbiased=False), torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(dataset.restore(x), table, atol=1e-5, rtol=0)
    again = as_dataset(table[:9], units=dataset.units)
    assert torch.equal(again.batch(range(9))[0], x[:9])
    ranged = as_dataset(255 * torch.ones(2, 3, 4, 5), range=[0, 255])
    assert ranged[0].x.unique().tolist() == [1]
    assert ranged.shape == (3, 4, 5)
    gaps = table.clone()
    gaps[0, 1] = float("nan")
    assert as_dataset(gaps, standardize=True, missing="mask")[0].mask.tolist() == [1, 0]
    # Signals keep their axes.
    signal = torch.rand(4, 2, 50) * 9
    torch.testing.assert_close(
        as_dataset(signal, range=[0, 9]).restore(as_dataset(signal, range=[0, 9])[1].x).float(), signal[1]
    )


def test_labels():
    dataset = as_dataset(X, labels=Y)
    assert dataset.classes == ["0", "1", "2"]
    assert dataset.batch([4, 5])[1].tolist() == [1, 2]
    named = as_dataset(X, labels=["dog", "cat"] * 6)
    assert named.classes == ["cat", "dog"]
    assert [named[i].label for i in range(2)] == [1, 0]
    assert as_dataset(PIXELS, labels=Y).batch([4])[1].tolist() == [1]
    some = as_dataset(X, labels=torch.where(Y == 1, -1, Y), unlabelled="keep")
    assert some[1].label is None
    assert some.batch([0, 1])[1].tolist() == [0, -1]
    assert as_dataset(X, labels=False).classes is None
    refused(X, "labels are not whole numbers", labels=Y + 0.5)
    refused(X, "need one for each of 12 samples", labels=Y[:5])
    refused(X, "no valid label, first sample 1", labels=torch.where(Y == 1, -1, Y))


@pytest.mark.parametrize("value", [X, PIXELS], ids=["floats", "bytes"])
def test_masks(value):
    masks = torch.from_numpy(RNG.random((12, 6, 8)) < 0.5)
    for given in (masks, masks[:, None].float(), masks[:, None].numpy().astype(np.uint8) * 255):
        dataset = as_dataset(value, masks=given)
        assert dataset.masked
        x, _, found = dataset.batch([2, 3])
        assert torch.equal(found, masks[[2, 3], None].float())
        torch.testing.assert_close(x * found, X[[2, 3]] * found, atol=1e-6, rtol=0)
    refused(value, "masks have shape 12 x 5 x 8, need 12 x 1 x 6 x 8", masks=masks[:, :5])
    refused(value, "0 (hidden) and 1", masks=masks * 2.0)
    masks[4] = False
    refused(value, "the mask of sample 4 hides everything", masks=masks)


def test_what_is_hidden_may_be_anything():
    x, masks = X.clone(), torch.ones(12, 1, 6, 8)
    x[3, :, 2] = float("nan")
    masks[3, :, 2] = 0
    dataset = as_dataset(x, masks=masks)
    assert (dataset[3].x[:, 2] == 0).all()
    assert measure(dataset)["count"] == 12


def test_fingerprints_are_of_the_content():
    first = as_dataset(X).fingerprint()
    assert as_dataset(X.double().numpy()).fingerprint() == first
    changed = X.clone()
    changed[11, 2, 5, 7] = 0.125
    others = [as_dataset(changed), as_dataset(X[:11]), as_dataset(X, labels=Y), as_dataset(X, masks=X > -2)]
    assert len({first, *(d.fingerprint() for d in others)}) == 5


# --- torch data sets ---

FORMS = {
    "tensors": lambda x, p, y: x,
    "arrays": lambda x, p, y: x.numpy(),
    "1-tuples": lambda x, p, y: (x,),
    "pairs": lambda x, p, y: (x, y),
    "lists": lambda x, p, y: [x, torch.tensor(y)],
    "image": lambda x, p, y: {"image": x, "label": y},
    "x": lambda x, p, y: {"x": x.double(), "y": np.int64(y)},
    "pixel_values": lambda x, p, y: {"id": "a", "pixel_values": x.numpy(), "label": torch.tensor([y])},
    "input": lambda x, p, y: {"input": x},
    "samples": lambda x, p, y: Sample(x, y),
    "bytes": lambda x, p, y: (torch.from_numpy(p), y),
    "byte arrays": lambda x, p, y: p,
    "pictures": lambda x, p, y: (picture(p), y),
    "dicts of pictures": lambda x, p, y: {"image": picture(p), "label": y},
}


@pytest.mark.parametrize(("form", "workers"), [*((form, 0) for form in FORMS), ("pairs", 1)])
def test_batches_equal_those_of_the_tensor(form, workers):
    x = X
    if form in ("bytes", "byte arrays", "pictures", "dicts of pictures"):
        x = as_dataset(PIXELS).batch(range(12))[0]
    made = [FORMS[form](*parts) for parts in zip(x, PIXELS, Y.tolist(), strict=True)]
    data = as_dataset(Listed(made, classes=["a", "b", "c"]))
    assert isinstance(data, TorchDataset)
    has_labels = form not in ("tensors", "arrays", "1-tuples", "input", "byte arrays")
    whole = as_dataset(x, labels=Y if has_labels else None)
    assert data.classes == (["a", "b", "c"] if has_labels else None)
    options = {"batch_size": 5, "seed": 3, "flip": "horizontal"}
    want = Batches(whole, 2.0, **options)
    stream = Batches(data, 2.0, workers=workers, **options).stream()
    for step, batch in zip(range(4), stream, strict=False):
        other = want.at(step)
        assert batch.keys() == other.keys()
        assert all(torch.equal(batch[key], other[key]) for key in batch)


def test_torchs_own_data_sets():
    both = as_dataset(torch.utils.data.TensorDataset(X, Y))
    assert both.fingerprint() == as_dataset(X, labels=Y).fingerprint()
    assert as_dataset(torch.utils.data.TensorDataset(X)).classes is None
    inner = Listed(zip(X, Y.tolist(), strict=True), targets=Y.tolist())
    part = as_dataset(torch.utils.data.Subset(inner, [4, 2]))
    assert part.classes == ["0", "1", "2"]
    assert (len(part), part[0].label) == (2, 1)
    assert torch.equal(as_dataset(list(X))[3].x, X[3])


def test_it_is_read_lazily():
    listed = Listed(X)
    data = as_dataset(listed)
    assert set(listed.reads) == {0}
    listed.reads.clear()
    data.batch([7, 3])
    assert listed.reads == [7, 3]
    long = Listed([X[i % 12] for i in range(1000)])
    long_data = as_dataset(long)
    long.reads.clear()
    first = long_data.fingerprint()
    assert long.reads == [i * 1000 // 64 for i in range(64)]
    long.samples[15] = X[0]  # the second of the samples that count: 1000 // 64
    assert long_data.fingerprint() != first
    assert long_data.fingerprint() != as_dataset(Listed(long.samples[:999])).fingerprint()


def test_it_may_be_a_view_and_be_simulated_from():
    small = Simulated(as_dataset(Listed(X)), Downsample(2))
    torch.testing.assert_close(small[3].x, torch.nn.functional.avg_pool2d(X, 2)[3])


def test_classes_of_lazy_data():
    pairs = list(zip(X, Y.tolist(), strict=True))
    refused(Listed(pairs), "its samples have labels (sample 0: 0)", "classes=how_many", "labels=False")
    assert as_dataset(Listed(pairs), classes=3).classes == ["0", "1", "2"]
    assert as_dataset(Listed(pairs), labels=False)[1].label is None
    assert as_dataset(Listed(X), labels=["b", "a"] * 6)[0].label == 1
    names = [(x, "abc"[y]) for x, y in pairs]
    assert as_dataset(Listed(names), classes=["c", "b", "a"])[2].label == 0
    features = {"label": type("ClassLabel", (), {"names": ["cat", "dog", "ant"]})()}
    assert as_dataset(Listed(({"image": x, "label": y} for x, y in pairs), features=features)).classes[2] == "ant"
    for label, said in ((3, "the label 3"), (1.5, "the label 1.5"), ("d", "the label 'd'"), (None, "the label None")):
        data = as_dataset(Listed([*pairs, (X[0], label)]), classes=["a", "b", "c"])
        with pytest.raises(
            BootdiffError, match=f"sample 12 has {said}; need a whole number below 3, or one of a, b, c"
        ):
            data[12]
    some = as_dataset(Listed([*pairs, (X[0], None)]), classes=3, unlabelled="keep")
    assert some.batch([1, 12])[1].tolist() == [1, -1]


def test_masks_of_lazy_data():
    masks = torch.from_numpy(RNG.random((12, 1, 6, 8)) < 0.5)
    data = as_dataset([{"x": x, "mask": m} for x, m in zip(X, masks, strict=True)])
    whole = as_dataset(X, masks=masks)
    for a, b in zip(data.batch([3, 8])[::2], whole.batch([3, 8])[::2], strict=True):
        assert torch.equal(a, b)
    mixed = as_dataset([Sample(X[0], None, masks[0].float()), Sample(X[1])])
    with pytest.raises(BootdiffError, match="sample 1 has no mask, sample 0 has one"):
        mixed[1]
    refused([{"x": X[0], "mask": masks[0, :, :5]}], "the mask of sample 0 (1 x 5 x 8) must be 1 x 6 x 8")


def test_gray_pictures_among_coloured_ones():
    data = as_dataset([picture(PIXELS[0]), picture(PIXELS[1]).convert("L")])
    assert data[1].x.shape == (3, 6, 8)
    assert data[1].x.unique(dim=0).shape[0] == 1
    clear = picture(PIXELS[0])
    clear.putalpha(100)
    refused([clear], "sample 0 has transparent pixels; say what is behind them with alpha")
    assert as_dataset([clear], alpha="drop").shape == (3, 6, 8)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(X)


class Endless(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return X[0]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, ["type NoneType", "__len__ and __getitem__"]),
        ((x for x in X), ["type generator", "collect the samples in a list"]),
        (Stream(), ["type Stream", "no length"]),
        (Endless(), ["type Endless"]),
        ({"x": X}, ["type dict"]),
        ([], ["is an empty list"]),
        (torch.utils.data.DataLoader(list(X)), ["is a DataLoader", "loader.dataset"]),
        ("photos", ["'photos' is a path; open it with bootdiff.open('photos')"]),
        (Path("photos"), ["is a path"]),
        ([{"pixels": X[0]}], ["sample 0 is a dict of pixels; need one of image, x, pixel_values, input"]),
        ([(X[0], 1, 2)], ["sample 0 is a tuple of 3; need (x,) or (x, label)"]),
        (["a.png"], ["sample 0 holds a str where a tensor"]),
        ([None], ["sample 0 holds a NoneType"]),
        ([torch.zeros(3, 4, 4, dtype=torch.int64)], ["sample 0 holds int64 values", "floats in [-1, 1]"]),
        ([127.5 * (X[0] + 1)], ["sample 0 holds values from", "2 * x / 255 - 1"]),
        ([X[0] * torch.nan], ["sample 0 holds NaN or infinite values"]),
        ([PIXELS[0].transpose(1, 2, 0)], ["sample 0: 6 x 8 x 3 means 6 channels", "torch.movedim(x, -1, 0)"]),
        ([np.zeros((28, 28), np.float32)], ["28 x 28 could be two things", "x[None]"]),
    ],
    ids=lambda v: str(v) if isinstance(v, list | str) and "object at" not in str(v) else type(v).__name__,
)
def test_what_is_no_data_set(value, said):
    refused(value, "data: ", *said)


def test_a_bad_sample_is_named_when_it_is_read():
    data = as_dataset([X[0], X[1, :, :5], 2 * X[2], X[3] * torch.inf])
    for i, said in (
        (1, "sample 1 is 3 x 5 x 8, sample 0 is 3 x 6 x 8; all must be alike"),
        (2, "sample 2 holds values from"),
        (3, "sample 3 holds NaN or infinite values"),
    ):
        with pytest.raises(BootdiffError, match=re.escape(said)):
            data[i]
    with pytest.raises(IndexError):
        data[4]

    class Failing(Listed):
        def __getitem__(self, index):
            if index == 2:
                raise OSError("disk gone")
            return super().__getitem__(index)

    data = as_dataset(Failing(X), where="mine")
    with pytest.raises(BootdiffError, match=r"^mine: sample 2 of 12 cannot be read \(OSError: disk gone\)"):
        data.batch([0, 2])


def test_random_augmentation_is_refused():
    class Augmented(Listed):
        def __getitem__(self, index):
            return (super().__getitem__(index) + 0.1 * torch.rand(1)).clamp(-1, 1)

    refused(Augmented(X), "sample 0 is different each time it is read", "flip")


def test_unknown_options():
    for value in (X, list(X)):
        with pytest.raises(TypeError, match="size"):
            as_dataset(value, size=(3, 4))
    for options in ({"unlabelled": "x"}, {"alpha": "x"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            as_dataset(list(X), **options)

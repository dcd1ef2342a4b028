"""open_dataset picks the reader, and says what is wrong with a path that has none."""

from __future__ import annotations

import re
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff import data
from bootdiff.data import Arrays, HFDataset, Images, Subset, Units, open_dataset
from bootdiff.data.options import (
    ArrayOptions,
    DataOptions,
    EmbeddedOptions,
    HFOptions,
    ImageOptions,
    SignalOptions,
    TableOptions,
    VideoOptions,
    defaults_of,
    kinds_of,
)
from bootdiff.errors import BootdiffError
from bootdiff.settings import annotations_of, doc_of

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def test_picks_the_reader(folder):
    np.savez(folder / "a.npz", train=PIXELS, train_label=np.arange(6), masks=np.ones((6, 4, 5), bool))
    np.save(folder / "a.npy", PIXELS)
    opened = [
        open_dataset(folder),
        open_dataset(str(folder / "a.npy")),
        open_dataset(folder / "a.npz", key="train", labels=True, masks=True),
    ]
    assert [type(source) for source in opened] == [Images, Arrays, Arrays]
    assert all(torch.equal(source[3].x, opened[0][3].x) for source in opened)
    assert opened[2][3].label == 3
    assert opened[2][3].mask.shape == (1, 4, 5)
    assert isinstance(open_dataset("digits"), Arrays)
    half = open_dataset(folder / "a.npy", limit=3)
    assert isinstance(half, Subset)
    assert half.indices == [0, 2, 4]
    assert open_dataset(folder, limit=3).names == ["0.png", "2.png", "4.png"]
    assert len(open_dataset(folder, limit=99)) == 6


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.pt", "foreign code"),
        ("a.pkl", "foreign code"),
        ("a.zip", "unpack it"),
        ("a.mp4", "damaged, cut short or no video"),
        ("a.PNG", "is one picture; give the folder"),
        ("a.xyz", "unknown suffix '.xyz'; data are read from"),
        ("a", "without a suffix"),
    ],
)
def test_files_without_a_reader(tmp_path, name, said):
    (tmp_path / name).write_text("x")
    with pytest.raises(BootdiffError, match=re.escape(said)):
        open_dataset(tmp_path / name)


def test_missing_paths_name_what_exists(tmp_path):
    with pytest.raises(
        BootdiffError, match=rf"photos/train: no such file or folder \({re.escape(str(tmp_path))} exists"
    ):
        open_dataset(tmp_path / "photos" / "train")


def test_options_that_mean_nothing_are_refused(folder):
    np.save(folder / "a.npy", PIXELS)
    for path, options, said in (
        (folder, {"key": "train"}, "a folder of pictures, to which key means nothing"),
        (folder, {"labels": "y"}, "write labels: true"),
        (folder / "a.npy", {"fps": 5.0}, "an array, to which fps means nothing"),
        (folder / "a.npy", {"column": "image"}, "column means nothing"),
        ("digits", {"masks": True}, "masks means nothing"),
    ):
        with pytest.raises(BootdiffError, match=said):
            open_dataset(path, **options)
    with pytest.raises(ValueError, match="limit"):
        open_dataset(folder, limit=0)


def test_unknown_and_wrong_options(folder):
    with pytest.raises(
        TypeError, match=r"unknown option 'chanels'; known options: kind, labels, .*did you mean 'channels'"
    ):
        open_dataset(folder, chanels=3)
    for options, said in (
        ({"kind": "film"}, "kind must be one of vector, signal, image, video, got 'film'"),
        ({"on_error": "ignore"}, "ImageOptions.on_error must be one of refuse, skip; got 'ignore'"),
        ({"kind": "video", "frames": 0}, "VideoOptions.frames must be at least 1, got 0"),
        ({"kind": "video", "stride": 2}, "VideoOptions.stride: spaces windows, but there is no frames"),
        ({"labels": 3}, "ImageOptions.labels: must be true, false or the name of an array, got 3"),
        ({"unlabelled": "keep"}, "ImageOptions.unlabelled: there are no labels to lack"),
        ({"kind": "signal", "range": [1, 0]}, r"SignalOptions.range: must be [low, high] with low < high, got [1, 0]"),
        ({"kind": "signal", "range": [0, 1], "standardize": True}, "the values have a range already"),
        ({"kind": "signal", "range": [0, 1], "units": Units()}, "the values have a range already"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            open_dataset(folder, **options)
    # None and defaults are the same as leaving an option out.
    assert len(open_dataset(folder, frames=None, fps=None, standardize=False, missing="refuse")) == 6


def test_options_mean_the_same_for_all_readers():
    readers = (ArrayOptions, EmbeddedOptions, HFOptions, ImageOptions, SignalOptions, TableOptions, VideoOptions)
    everything = defaults_of(DataOptions)
    for options in readers:
        for name, default in defaults_of(options).items():
            assert everything[name] == default
            assert annotations_of(options)[name] == annotations_of(DataOptions)[name]
    assert set(everything) == {name for options in readers for name in defaults_of(options)}
    assert all(doc_of(annotation) for annotation in annotations_of(DataOptions).values())
    assert {name: kinds for name in everything if (kinds := kinds_of(name)) is not None} == {
        "max_pixels": ("image", "video"),
        "max_frames": ("video",),
        "max_columns": ("vector", "signal"),
        "channels": ("image", "video"),
        "alpha": ("image", "video"),
        "frames": ("video",),
        "fps": ("video",),
        "pixel_aspect": ("video",),
        "length": ("signal",),
        "stride": ("video", "signal"),
        **dict.fromkeys(("columns", "header", "separator", "decimal", "missing_values"), ("vector", "signal")),
        "standardize": ("vector", "signal"),
        "size": ("image", "video"),
        "fit": ("image", "video"),
        "slices": ("image", "video"),
    }


def test_the_package_hands_on_its_names():
    for name in data.__all__:
        assert getattr(data, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Film'"):
        data.Film  # noqa: B018


def hugging_face(monkeypatch, saved) -> None:
    """A stand-in for the package ``datasets``, which is an extra: the calls HFDataset makes."""
    module = types.ModuleType("datasets")
    module.load_from_disk = lambda folder: saved  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


class Table:
    def __init__(self, **columns) -> None:
        self.columns, self.column_names = columns, list(columns)
        image = type("Image", (), {})()
        label = types.SimpleNamespace(names=["cat", "dog"])
        self.features = {name: label if name == "label" else image for name in columns}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, row: int) -> dict:
        return {name: values[row] for name, values in self.columns.items()}


def test_hugging_face_data(tmp_path, monkeypatch):
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BootdiffError, match=r"needs the package datasets: pip install 'bootdiff\[data\]'"):
        open_dataset(tmp_path)

    pictures = [Image.fromarray(p) for p in PIXELS]
    hugging_face(monkeypatch, Table(image=pictures, label=[0, 1, 0, 1, 0, 1]))
    source = open_dataset(tmp_path, column="image", labels=True)
    assert isinstance(source, HFDataset)
    assert torch.equal(source[3].x, Arrays(PIXELS)[3].x)
    assert source[3].label == 1
    assert source.classes == ["cat", "dog"]
    assert source.name(2) == "row 2"
    assert source.fingerprint() != open_dataset(tmp_path, column="image").fingerprint()
    with pytest.raises(BootdiffError, match=r"no column 'img'; columns: image, label"):
        open_dataset(tmp_path, column="img")
    assert open_dataset(tmp_path).fingerprint() == open_dataset(tmp_path, column="image").fingerprint()
    hugging_face(monkeypatch, Table(left=pictures, right=pictures))
    with pytest.raises(BootdiffError, match=r"say which column .*one of left, right"):
        open_dataset(tmp_path)

    hugging_face(monkeypatch, {"train": Table(image=pictures), "test": Table(image=pictures[:2])})
    assert len(open_dataset(tmp_path, key="test")) == 2
    with pytest.raises(BootdiffError, match="one of train, test"):
        open_dataset(tmp_path)

    wrong = [*pictures[:2], Image.fromarray(PIXELS[0, :2]), pictures[3]]
    hugging_face(monkeypatch, Table(image=wrong))
    with pytest.raises(BootdiffError, match="1 of 4 rows cannot be used: row 2 is 2 x 5 pixels, not 4 x 5"):
        open_dataset(tmp_path)
    skipped = open_dataset(tmp_path, on_error="skip")
    assert [skipped.name(i) for i in range(3)] == ["row 0", "row 1", "row 3"]

    class Damaged(Table):
        """`datasets` decodes pictures when a row is asked for."""

        def __getitem__(self, row: int) -> dict:
            if row == 1:
                raise OSError("image file is truncated")
            return super().__getitem__(row)

    hugging_face(monkeypatch, Damaged(image=pictures))
    with pytest.raises(BootdiffError, match=r"1 of 6 rows .* row 1 cannot be decoded \(image file is truncated\)"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, on_error="skip").name(1) == "row 2"

    # Numbers in place of pictures: what would be cut to 0 and 1 is named.
    for scaled in (PIXELS / 255, PIXELS > 127, (PIXELS > 127).astype(float)):
        hugging_face(monkeypatch, Table(image=list(scaled)))
        with pytest.raises(BootdiffError, match=r"holds numbers that are no levels of 0\.\.255"):
            open_dataset(tmp_path)
    hugging_face(monkeypatch, Table(image=list(PIXELS.astype(float))))
    torch.testing.assert_close(open_dataset(tmp_path)[2].x, torch.from_numpy(PIXELS[2]).movedim(-1, 0) / 127.5 - 1)

    pictures[0].save(tmp_path / "moving.webp", save_all=True, append_images=[pictures[1]], lossless=True)
    with Image.open(tmp_path / "moving.webp") as moving:
        hugging_face(monkeypatch, Table(image=[moving]))
        with pytest.raises(BootdiffError, match=r"is animated \(2 frames\)"):
            open_dataset(tmp_path)

"""`bootdiff restore` on a tiny run: folders, arrays and single files in, answers and figures out, and wrong input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from bootdiff.data import Simulated, Subset, load_digits
from bootdiff.evaluation.restoration import open_coordinates
from bootdiff.restoration import observe
from bootdiff.views import Downsample, Mask
from cli_calls import call, refused

FAST = ("--steps", 4, "--samples", 2)


def says(message, *parts):
    flat = " ".join(message.split())
    for part in parts:
        assert str(part) in flat, flat


def digits(n=3):
    return Subset(load_digits(), range(1500, 1500 + n))


def picture(x, path):
    """(1, H, W) in [-1, 1] as a gray picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint((x[0].numpy() + 1) * 127.5).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """.full and .small: three digits and their thumbnails; .halves: an array of left halves."""
    folder = tmp_path_factory.mktemp("partial")
    source = digits()
    small = Simulated(source, Downsample(2))
    for i in range(3):
        picture(source[i].x, folder / "full" / f"{i}.png")
        picture(small[i].x, folder / "small" / f"{i}.png")
    halves = source.batch(range(3))[0][:, 0, :, :4].numpy()
    np.save(folder / "halves.npy", np.rint((halves + 1) * 127.5).astype(np.uint8))
    return folder


def restored(trained, *arguments):
    result = call("restore", trained.run, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def load(out):
    return np.load(out / "answers.npy"), json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("method", ["mmps", "pigdm", "ddnm"])
def test_a_folder_of_thumbnails(trained, folders, tmp_path, method):
    out = tmp_path / "out"
    text = restored(trained, folders / "small", out, "--view", "thumbnails", "--method", method, *FAST)
    says(text, "largest |A x - y|", "3 file(s), 2 answer(s) each")
    answers, report = load(out)
    assert answers.shape == (3, 2, 8, 8, 1)
    assert report["agreement"]["max"] < 1e-4
    assert report["scores"] is None
    assert (report["method"], report["files"]) == (method, ["0", "1", "2"])
    for name in ("answers/0-1", "answers/2-2", "mean/1", "spread/1"):
        with Image.open(out / f"{name}.png") as found:
            assert found.size == (8, 8)
    with Image.open(out / "overview.png") as found:
        assert found.width > 100
    with np.load(out / "spread.npz") as kept:
        assert kept["names"].tolist() == ["0", "1", "2"]
        np.testing.assert_allclose(kept["mean"], answers.mean(1), atol=2e-2 * np.ptp(answers))
        assert kept["spread"].shape == (3, 8, 8, 1)
        assert kept["spread"].max() > 0


def test_an_array_keeps_what_is_given_to_the_last_bit(trained, folders, tmp_path):
    restored(trained, folders / "halves.npy", tmp_path, "--view", "halves", *FAST)
    answers, report = load(tmp_path)
    given = np.load(folders / "halves.npy") / 127.5 - 1
    units = {np.dtype(np.uint8): (127.5, 127.5)}.get(answers.dtype, (8.0, 8.0))
    np.testing.assert_allclose((answers[:, 0, :, :4, 0] - units[1]) / units[0], given, atol=5e-3)
    assert report["agreement"]["max"] < 1e-6


def test_the_truth_gives_figures(trained, folders, tmp_path):
    arguments = ("--truth", folders / "full", "--steps", 4, "--samples", 3)
    text = restored(trained, folders / "small", tmp_path, "--view", "thumbnails", *arguments)
    says(text, "mean of the answers", "bicubic", "copy-paste of the nearest", "(nominal: 50.0 %)")
    scores = load(tmp_path)[1]["scores"]
    assert set(scores["psnr"]) == {"mean", "one", "mean_fill", "copy_paste", "bicubic", "lanczos"}
    assert scores["count"] == 3
    assert scores["open"] == 1
    assert 5 < scores["psnr"]["bicubic"] < 40
    assert scores["gain"]["over"] in scores["psnr"]


def test_held_out_samples_are_cut_by_the_view(trained, tmp_path):
    text = restored(trained, "--view", "halves", "--held-out", 5, tmp_path / "out", *FAST)
    says(text, "interpolation", "5 file(s)")
    answers, report = load(tmp_path / "out")
    assert len(answers) == 5
    assert report["scores"]["open"] == 0.5
    assert report["in"] == "test"


def test_the_same_seed_gives_the_same_answers(trained, folders, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        restored(trained, folders / "small", tmp_path / name, "--view", "thumbnails", "--seed", seed, *FAST)
    a, b, c = (load(tmp_path / name)[0] for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert np.abs(a.astype(float) - c).max() > 0.05


def test_one_picture_with_a_mask_of_its_own(trained, folders, tmp_path):
    seen = np.full((8, 8), 255, np.uint8)
    seen[2:5, 3:6] = 0
    Image.fromarray(seen).save(tmp_path / "mask.png")
    photo = folders / "full" / "1.png"
    restored(trained, photo, tmp_path / "a", "--mask", tmp_path / "mask.png", *FAST)
    answers, report = load(tmp_path / "a")
    assert report["files"] == ["1"]
    given = observe(digits()[1].x[None], Mask(image=seen > 0), (1, 8, 8))
    assert open_coordinates(given).sum() == 9
    with Image.open(photo) as before, Image.open(tmp_path / "a" / "answers" / "1-1.png") as after:
        kept, found = np.asarray(before), np.asarray(after.convert("L"))
        np.testing.assert_array_equal(found[seen > 0], kept[seen > 0])
    Image.fromarray(seen).save(folders / "full" / "1.mask.png")
    restored(trained, photo, tmp_path / "b", "--view-config", "{kind: random_mask}", *FAST)
    (folders / "full" / "1.mask.png").unlink()
    np.testing.assert_array_equal(load(tmp_path / "b")[0], answers)


def test_views_that_the_recipe_does_not_have(trained, folders, tmp_path):
    (tmp_path / "v.yaml").write_text("[{kind: downsample, factor: 2}]\n")
    for config in ("downsample", "{kind: downsample, factor: 2}", tmp_path / "v.yaml"):
        if config == "downsample":
            says(refused("restore", trained.run, folders / "small", tmp_path, "--view-config", config), "factor")
            continue
        restored(trained, folders / "small", tmp_path / "out", "--view-config", config, "--std", 0.1, *FAST)
        report = load(tmp_path / "out")[1]
        assert report["view"]["kind"] == "observed"
        assert 0.2 < report["agreement"]["noise"] < 30  # four steps of a network that was hardly trained


def test_a_place_among_several(trained, folders, tmp_path):
    crop = ("--view-config", "{kind: crop, size: [8, 4]}")
    message = refused("restore", trained.run, folders / "halves.npy", tmp_path, *crop)
    says(message, "has 3 placements", "--placement 0 (Crop(size=(8, 4), offset=(0, 0)", "to 2", "--view-config")
    restored(trained, folders / "halves.npy", tmp_path, *crop, "--placement", 2, *FAST)
    assert load(tmp_path)[1]["view"]["offset"] == [0, 4]
    message = refused("restore", trained.run, folders / "halves.npy", tmp_path, *crop, "--placement", 3)
    says(message, "has 3 placement(s)")


def test_labels_and_arms(trained, folders, tmp_path):
    arguments = (folders / "small", tmp_path, "--view", "thumbnails", "--label", "3", *FAST)
    restored(trained, *arguments, "--arm", "full_only")
    assert (load(tmp_path)[1]["label"], load(tmp_path)[1]["arm"]) == ("3", "full_only")
    says(refused("restore", trained.run, *arguments, "--arm", "best"), "has no trained arm 'best'")
    says(refused("restore", trained.run, *arguments[:-6], "--label", "eleven"), "--label eleven: no such class")


def test_bad_input(trained, folders, tmp_path):
    small, run, out = folders / "small", trained.run, tmp_path / "out"
    view = ("--view", "thumbnails")
    says(refused("restore", run, small, out), "select the view of the files", "--mask FILE")
    says(refused("restore", run, small, out, "--view", "films"), "no such view; it has thumbnails, halves")
    says(refused("restore", run, folders / "full", out, *view), "its files are 1 x 8 x 8", "is 1 x 4 x 4")
    says(refused("restore", run, tmp_path / "none", out, *view), "none: no such file or folder")
    says(refused("restore", tmp_path / "none", small, out, *view), "none")
    says(refused("restore", run, small, out, *view, "--method", "magic"), "known: mmps, pigdm, ddnm")
    says(refused("restore", run, *view), "give either IN", "--held-out N")
    says(refused("restore", run, small, out, *view, "--held-out", 3), "give either IN")
    says(refused("restore", run, out, *view, "--held-out", 999), "there are 24 test samples")
    says(refused("restore", run, small, out, *view, "--truth", small), "its samples are 1 x 4 x 4, full ones are")
    says(refused("restore", run, small, out, "--view-config", "{kind: fog}"), "--view-config")
    says(refused("restore", run, small, out, "--view-config", "{kind: downsample, factor: 3}"), "no multiple of 3")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    says(refused("restore", run, folders / "full", out, "--mask", tmp_path / "black.png"), "hides everything")
    Image.fromarray(np.full((4, 8), 255, np.uint8)).save(tmp_path / "low.png")
    says(refused("restore", run, folders / "full", out, "--mask", tmp_path / "low.png"), "(4, 8)", "8")
    says(refused("restore", run, folders / "full", out, "--view-config", "random_mask"), "has no mask 0.mask.png")
    assert not out.exists()

"""`bootdiff masks`: from folders, videos and arrays to masks that recipes read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cli_calls import call, refused

N, SIDE = 48, 32


def photos(n=N, side=SIDE):
    from sklearn.datasets import load_sample_images

    pictures, rng, out = load_sample_images().images, np.random.default_rng(0), []
    for i in range(n):
        top, left = (int(rng.integers(0, s - side)) for s in pictures[0].shape[:2])
        out.append(pictures[i % 2][top : top + side, left : left + side])
    return np.stack(out)


def under_logo(x):
    x = x.copy()
    x[..., 2:9, 20:29, :] = [230, 60, 90]
    return x


def captioned(x, every=3):
    """White strokes in a blue band, which lies elsewhere in each of the pictures that have it."""
    rng, x = np.random.default_rng(1), x.copy()
    where = np.zeros(x.shape[:-1], bool)
    for i in range(0, len(x), every):
        top = int(rng.integers(1, SIDE - 9))
        where[i, top : top + 8] = True
        x[i, top : top + 8] = [20, 30, 90]
        x[i, top + 2 : top + 6, 2:-2:3] = 250
    return x, where


def save(folder, x, name="{:03d}.png"):
    for i, picture in enumerate(x):
        path = folder / name.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def run(*arguments):
    result = call("masks", *arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_a_logo_in_a_folder_becomes_a_mask_that_a_recipe_reads(tmp_path):
    from bootdiff.recipe.build import build_problem
    from bootdiff.recipe.schema import load_recipe_text

    save(tmp_path / "logo", under_logo(photos()))
    (tmp_path / "logo" / "odd.png").write_bytes((tmp_path / "logo" / "000.png").read_bytes())
    said = run(tmp_path / "logo", "--out", tmp_path / "out")
    assert "hides 63 of 1,024 pixels (6.2%)" in said
    assert "mask.png" in said
    mask = pixels(tmp_path / "out" / "mask.png")
    assert mask.dtype == np.uint8
    hidden = np.zeros((SIDE, SIDE), bool)
    hidden[2:9, 20:29] = True
    assert ((mask == 0) == hidden).all()
    assert set(np.unique(mask)) == {0, 255}
    assert pixels(tmp_path / "out" / "check.png").shape[1] > 300
    save(tmp_path / "full", photos(12))
    recipe = load_recipe_text(
        "full: {path: full}\nviews: {logo: {view: {kind: mask, image: out/mask.png}, data: {path: logo}}}", tmp_path
    )
    assert int((build_problem(recipe).views["logo"].view.mask((3, SIDE, SIDE)) == 0).sum()) == 63
    assert "hides 99 of" in run(tmp_path / "logo", "--out", tmp_path / "out", "--grow", 1)


def test_where_there_is_nothing_nothing_is_written(tmp_path):
    save(tmp_path / "clean", photos())
    for option in ((), ("--moving",)):
        assert "no mask is written" in run(tmp_path / "clean", "--out", tmp_path / "out", *option)
        assert not (tmp_path / "out").exists()


def test_text_that_comes_and_goes_gets_a_mask_for_each_file(tmp_path):
    from bootdiff.data import open_dataset

    x, where = captioned(photos())
    save(tmp_path / "film", x, "scenes/{:03d}.png")
    said = run(tmp_path / "film", "--per-frame", "--out", tmp_path / "out")
    assert f"{N // 3} of {N} images have something hidden" in said
    assert f"cp -r {tmp_path}/out/. {tmp_path}/film/" in said
    masks = sorted((tmp_path / "out" / "scenes").glob("*.mask.png"))
    assert len(masks) == N  # one for every file, white where nothing is hidden
    hidden = np.stack([pixels(path) == 0 for path in masks])
    assert (hidden & where).sum() / (hidden | where).sum() > 0.7
    for path in masks:
        path.rename(tmp_path / "film" / "scenes" / path.name)
    assert (open_dataset(tmp_path / "film", masks=True).batch(range(N))[2][:, 0].numpy() == ~hidden).all()


def test_videos_as_folders_of_frames(tmp_path):
    from bootdiff.data import open_dataset

    x, where = captioned(under_logo(photos()))
    for k in range(4):
        save(tmp_path / "films", x[k * 12 : k * 12 + 12], f"clip{k}/{{:02d}}.png")
    run(tmp_path / "films", "--video", "--moving", "--out", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["check.png", *(f"clip{k}.mask" for k in range(4))]
    for k in range(4):
        (tmp_path / "out" / f"clip{k}.mask").rename(tmp_path / "films" / f"clip{k}.mask")
    seen = (
        open_dataset(tmp_path / "films", kind="video", masks=True).batch(range(4))[2][:, 0].numpy().reshape(where.shape)
    )
    hidden = where.copy()
    hidden[:, 2:9, 20:29] = True
    assert ((seen == 0) & hidden).sum() / ((seen == 0) | hidden).sum() > 0.75


def test_arrays(tmp_path):
    x, where = captioned(photos())
    np.savez(tmp_path / "x.npz", train=x, other=under_logo(photos()))
    assert "masks.npy" in run(tmp_path / "x.npz", "--key", "train", "--moving", "--out", tmp_path / "out")
    hidden = np.load(tmp_path / "out" / "masks.npy") == 0
    assert hidden.shape == where.shape
    assert (hidden & where).sum() / (hidden | where).sum() > 0.7
    assert "hides 63 of" in run(tmp_path / "x.npz", "--key", "other", "--out", tmp_path / "out")


def test_large_pictures_are_looked_at_smaller(tmp_path, monkeypatch):
    from bootdiff.cli import masks

    monkeypatch.setattr(masks, "_VALUES", 2**16)
    large = under_logo(photos()).repeat(3, 1).repeat(3, 2)[:, :-1]  # of a height that no factor divides
    save(tmp_path / "large", large)
    run(tmp_path / "large", "--out", tmp_path / "out")
    mask = pixels(tmp_path / "out" / "mask.png") == 0
    assert mask.shape == (95, 96)
    hidden = np.zeros((96, 96), bool)
    hidden[6:27, 60:87] = True
    assert (mask & hidden[:-1]).sum() / (mask | hidden[:-1]).sum() > 0.75


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: save(folder, photos(9)), "9 image(s) of one size"),
        (lambda folder: folder.mkdir(), "it is empty"),
        (lambda folder: None, "no such folder"),
        (lambda folder: (save(folder, photos(20)), (folder / "a.png").write_bytes(b"no")), "a.png: cannot be decoded"),
    ],
)
def test_what_cannot_be_looked_at(tmp_path, make, message):
    make(tmp_path / "in")
    assert message in " ".join(refused("masks", tmp_path / "in", "--out", tmp_path / "out").split())


def test_vectors_have_no_overlays(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n" + "0.1,0.2\n-0.3,0.4\n" * 20)
    assert "holds neither images nor videos" in refused("masks", tmp_path / "x.csv")

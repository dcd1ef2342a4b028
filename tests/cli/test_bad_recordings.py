"""What is wrong with videos, masks, labels, models and nests, by the command line: what, where and what to do."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from cli_calls import call, refused

av = pytest.importorskip("av")

NET = (
    "\nbackbones: {local: {kind: local, width: 8, depth: 3}}\ntraining: {steps: 2, batch: 4, warmup: 0}\n"
    "levels: [0.2, 1]\n"
)
FULL = "full: {path: full}\n"
CLIPS = FULL + "views: {clips: {view: {kind: frame_window, length: 4}, data: {path: DATA}}}"


def encode(path, frames, fps=12):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "5", "g": "4"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def clips(folder, count, frames, fps=12):
    rng = np.random.default_rng(0)
    for i in range(count):
        encode(folder / f"{i}.mp4", rng.integers(0, 256, (frames, 16, 16, 3), dtype=np.uint8), fps)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """full/ of 8 frames, short/ of 4, 12 frames per second; three/ as short/ but for one file; masks; pictures/."""
    root = tmp_path_factory.mktemp("recordings")
    clips(root / "full", 5, 8)
    clips(root / "short", 6, 4)
    clips(root / "three", 6, 4)
    clips(root / "three", 1, 3)
    clips(root / "fast", 6, 4, fps=24)
    shutil.copytree(root / "short", root / "rates")
    shutil.copy(root / "fast" / "0.mp4", root / "rates" / "9.mp4")
    shutil.copytree(root / "full", root / "torn")
    torn = root / "torn" / "2.mp4"
    data = bytearray(torn.read_bytes())
    middle = (data.find(b"mdat") + len(data)) // 2
    data[middle : middle + 400] = np.random.default_rng(1).bytes(400)
    torn.write_bytes(bytes(data))
    for name, mask in (("wrong", np.ones((12, 16))), ("black", np.zeros((16, 16))), ("white", np.ones((16, 16)))):
        Image.fromarray((mask * 255).astype(np.uint8)).save(root / f"{name}.png")
    for i in range(6):
        (root / "pictures" / "a").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "pictures" / ("a" if i < 4 else ".") / f"{i}.png")
    return root


@pytest.fixture
def says(made, tmp_path):
    """What `bootdiff check` says of a recipe that it refuses, on one line."""

    def check(text):
        (made / "r.yaml").write_text(text + NET)
        return " ".join(refused("check", made / "r.yaml", "--out", tmp_path).split())

    return check


def test_a_video_of_three_frames_in_a_view_of_four(made, says):
    said = says(CLIPS.replace("DATA", "three"))
    assert "three: 1 of 6 recordings cannot be used: 0.mp4: has 3 frames, most have 4" in said
    assert "on_error: skip" in said
    said = says(CLIPS.replace("DATA", "three, frames: 4"))
    assert "0.mp4: has 3 frames, frames asks for 4: too short" in said
    np.save(made / "three.npy", np.zeros((6, 3, 16, 16, 3), np.uint8))
    said = says(CLIPS.replace("DATA", "three.npy, kind: video"))
    assert "views.clips: its files are 3 x 3 x 16 x 16 (channels x frames x height x width)" in said
    assert "full samples of 3 x 8 x 16 x 16 seen through this view are 3 x 4 x 16 x 16" in said
    said = says(CLIPS.replace("path: full", "path: three.npy, kind: video").replace("DATA", "short"))
    assert "views.clips: FrameWindow(length=4) does not fit samples of shape (3, 3, 16, 16)" in said


def test_files_that_are_left_out_are_counted_and_listed(made, tmp_path):
    text = CLIPS.replace("DATA", "three, on_error: skip").replace("full}", "torn, on_error: skip}")
    (made / "r.yaml").write_text(text + NET)
    result = call("check", made / "r.yaml", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "2 file(s) cannot be used and are left out" in result.stdout
    listed = {row["data"]: row for row in json.loads((tmp_path / "problems.json").read_text())}
    assert "damaged at frame" in listed["full"]["reason"]
    assert listed["view clips"]["file"].endswith("0.mp4")
    assert listed["view clips"]["reason"] == "has 3 frames, most have 4"


def test_mixed_frame_rates(says):
    said = says(CLIPS.replace("DATA", "rates"))
    assert "9.mp4: has 24 frames per second, most have 12; say fps: 12 to resample (nearest frame)" in said
    said = says(CLIPS.replace("DATA", "fast"))
    assert "views.clips.data: the recordings in" in said
    assert "fast have 24 frames per second, full ones have 12; say views.clips.data.fps: 12 to resample them" in said
    said = says(FULL + "views: {slow: {view: {kind: frame_stride, every: 2}, data: {path: short}}}")
    assert "short have 12 frames per second, full ones have 12, so 6 through this view; say views.slow.data.fps" in said
    said = says(CLIPS.replace("DATA", "short").replace("views", "test: {path: fast, fps: 24}\nviews"))
    assert "test: samples are 3 x 4 x 16 x 16, the full ones 3 x 8 x 16 x 16" in said


@pytest.mark.parametrize(
    ("view", "data"),
    [("{kind: frame_stride, every: 2}", "slow"), ("{kind: frame_window, length: 2}", "fast, fps: 12, frames: 2")],
)
def test_rates_that_the_view_explains_pass(made, tmp_path, view, data):
    clips(made / "slow", 4, 4, fps=6)
    (made / "r.yaml").write_text(f"{FULL}views: {{v: {{view: {view}, data: {{path: {data}}}}}}}{NET}")
    result = call("check", made / "r.yaml", "--out", tmp_path)
    assert result.exit_code == 0, result.output


def test_a_stream_that_is_damaged_in_the_middle(says):
    said = says(CLIPS.replace("full}", "torn}").replace("DATA", "short"))
    assert "torn: 1 of 5 recordings cannot be used: 2.mp4: its stream is damaged at frame" in said


MASKS = {
    "image: wrong.png": "views.hidden: Mask(image) does not fit samples of shape (3, 8, 16, 16): the mask's image is "
    "(12, 16); draw one of (16, 16)",
    "image: black.png": "black.png hides everything",
    "image: none.png": "none.png (No such file or directory); give a picture",
    "band: [bottom, 16]": "it hides 16x16 pixels at row 0, column 0; hide less, inside the sample",
    "box: [10, 10, 8, 8]": "it hides 8x8 pixels at row 10, column 10; hide less, inside the sample",
    "start: 0, stop: 4": "Mask(start=0, stop=4) does not fit samples of shape (3, 8, 16, 16): here a mask is told by",
}


@pytest.mark.parametrize("mask", MASKS)
def test_masks_that_do_not_fit(says, mask):
    text = FULL + f"views: {{hidden: {{view: {{kind: mask, {mask}}}, data: {{path: full}}}}}}"
    assert MASKS[mask] in says(text)


def test_masks_beside_files_that_do_not_fit(made, says):
    shutil.copytree(made / "short", made / "masked", dirs_exist_ok=True)
    for i, name in enumerate(("wrong", "black", "white")):
        shutil.copy(made / f"{name}.png", made / "masked" / f"{i}.mask.png")
    said = says("full: {path: short}\nviews: {hidden: {view: {kind: random_mask}, data: {path: masked, masks: true}}}")
    assert "masked: 5 of 6 recordings cannot be used:" in said
    assert "0.mp4: its mask 0.mask.png is 12 x 16 pixels (height x width), the frames are 16 x 16" in said
    assert "1.mp4: its mask 1.mask.png hides every pixel; white means observed" in said
    assert "3.mp4: has no mask: need 3.mask.png beside it" in said


def test_a_mask_that_hides_nothing_is_doubted(made, tmp_path):
    text = FULL + "views: {hidden: {view: {kind: mask, image: white.png}, data: {path: full}}}"
    (made / "r.yaml").write_text(text + NET)
    result = call("check", made / "r.yaml", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "warning: view hidden: its mask hides nothing" in " ".join(result.stdout.split())


def test_labels_that_are_missing_for_some(made, says):
    view = "views: {v: {view: {kind: downsample, factor: 2}, data: {path: pictures/a}}}"
    said = says(f"full: {{path: pictures, labels: true}}\n{view}")
    assert "pictures: 2 of 6 files cannot be used: 4.png: has no label: it lies in no sub-folder" in said
    assert "unlabelled: keep" in said
    x = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    np.savez(made / "x.npz", x=x, labels=np.array([0, 1, -1, 0, 1, 1, 1, 0]))
    said = says(f"full: {{path: x.npz, key: x, labels: true}}\n{view}")
    assert "x.npz[x]: 1 of 8 samples have no valid label, first sample 2 (-1); classes are 0, 1." in said


def test_a_pretrained_model_of_other_channels(made, says):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
        add_attention=False, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(made / "gray-model")
    text = "full: {path: pictures/a}\nviews: {v: {view: {kind: downsample, factor: 2}, pretrained: MODEL}}"
    said = says(text.replace("MODEL", "gray-model"))
    assert "views.v.pretrained: the model in" in said
    assert "of samples of 1 x 8 x 8 (channels first), this view's are 3 x 8 x 8; give another model" in said
    assert "no-model: no such folder; give a trained model" in says(text.replace("MODEL", "no-model"))


NESTS = {
    "{c: {view: stills, same_as: c}}": "line 2: views.c.same_as: refers to itself: c -> c; train one of them",
    "{c: {view: {kind: frame_window, length: 4}, data: {path: short}, views: {s: {view: stills, same_as: s}}}, "
    "s: {view: stills, same_as: c.s}}": "refers to itself: c.s -> s -> c.s",
    "{c: &c {view: {kind: frame_window, length: 4}, data: {path: short}, views: {i: *c}}}": "anchor contains itself",
}


@pytest.mark.parametrize("views", NESTS)
def test_nests_that_refer_to_themselves(says, views):
    assert NESTS[views] in says(f"{FULL}views: {views}")

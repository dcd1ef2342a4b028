"""The pipeline: diffusers' habits (numbers, generators, schedulers, callbacks, outputs), and its files."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
)
from diffusers.callbacks import PipelineCallback

import bootdiff
from bootdiff.denoise import IsotropicGaussian
from bootdiff.errors import BootdiffError
from bootdiff.pipeline import BootdiffPipeline
from bootdiff.sampling import sample
from bootdiff.saved_scheduler import BESIDE
from bootdiff.schedulers import diffusers_scheduler
from bootdiff.serialization import note_beside, save
from bootdiff.training.files import sha256_of
from small_denoisers import ByClass, denoiser, two_views


@pytest.fixture
def no_pickle(monkeypatch):
    """Whoever pickles or unpickles, through torch or not, fails."""

    def refuse(*args, **options):
        raise AssertionError("a pickle was touched")

    for module in (pickle, torch):
        for name in ("load", "save") if module is torch else ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
            monkeypatch.setattr(module, name, refuse)
    return refuse


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_stack_with_two_views_through_files_gives_the_same_bits(tmp_path, no_pickle):
    d = two_views()
    pipe = quiet(BootdiffPipeline(d))
    pipe.save_pretrained(tmp_path / "pipe")
    save(d, tmp_path / "arm")
    files = sorted(str(p.relative_to(tmp_path / "pipe")) for p in (tmp_path / "pipe").rglob("*") if p.is_file())
    weights = [f"denoiser/weights/{p.name}" for p in sorted((tmp_path / "arm" / "weights").iterdir())]
    assert weights
    assert files == [
        "README.md",
        "denoiser/model.json",
        *weights,
        "model_index.json",
        "scheduler/scheduler_config.json",
    ]
    want = sample(d, 3, seed=5, steps=6)
    for folder in ("pipe", "arm"):
        again = quiet(BootdiffPipeline.from_pretrained(str(tmp_path / folder)))
        assert torch.equal(sample(again.denoiser, 3, seed=5, steps=6), want)
        pictures = again(3, seed=5, num_inference_steps=6, output_type="pt").images
        assert torch.equal(pictures, (want / 2 + 0.5).clamp(0, 1))
    # and once more, from what was loaded; whoever asks diffusers for pickles gets none either
    again.save_pretrained(tmp_path / "second", safe_serialization=False)
    second = BootdiffPipeline.from_pretrained(tmp_path / "second")
    assert torch.equal(sample(second.denoiser, 3, seed=5, steps=6), want)


def test_three_lines(tmp_path):
    save(two_views(), tmp_path)

    pipe = bootdiff.BootdiffPipeline.from_pretrained(tmp_path)
    images = pipe(num_images=2, seed=0).images
    assert [(i.mode, i.size) for i in images] == [("RGB", (8, 8))] * 2


def test_output_types_agree():
    pipe = quiet(BootdiffPipeline(denoiser((3, 4, 6))))
    pt = pipe(2, num_inference_steps=4, output_type="pt").images
    array = pipe(2, num_inference_steps=4, output_type="np").images
    (pil,) = pipe(2, num_inference_steps=4, return_dict=False)
    assert pt.shape == (2, 3, 4, 6)
    assert (array.shape, array.dtype) == ((2, 4, 6, 3), np.float32)
    assert 0 <= array.min() < array.max() <= 1
    np.testing.assert_array_equal(array, pt.permute(0, 2, 3, 1).numpy())
    assert [p.size for p in pil] == [(6, 4)] * 2
    np.testing.assert_array_equal(np.stack([np.asarray(p) for p in pil]), (array * 255).round().astype(np.uint8))
    with pytest.raises(ValueError, match="latent"):
        pipe(output_type="latent")


def test_gray_pictures_are_of_mode_l():
    (picture,) = quiet(BootdiffPipeline(denoiser((1, 4, 6))))(num_inference_steps=2).images
    assert (picture.mode, picture.size) == ("L", (6, 4))


@pytest.mark.parametrize("shape", [(2, 4, 4), (16,), (1, 9)])
def test_what_is_no_picture_comes_as_numbers(shape):
    pipe = quiet(BootdiffPipeline(IsotropicGaussian(shape, [0.0] * shape[0], 0.5)))
    with pytest.raises(ValueError, match="cannot be PIL images"):
        pipe(output_type="pil")
    assert pipe(3, num_inference_steps=2).images.shape == (3, *shape[1:], shape[0])
    assert pipe(3, output_type="pt", num_inference_steps=2).images.shape == (3, *shape)
    assert pipe(3, output_type="np", num_inference_steps=2).images.shape == (3, *shape[1:], shape[0])


def test_class_labels_of_the_pipeline():
    pipe = quiet(BootdiffPipeline(ByClass()))
    two = pipe(class_labels=[1, 0], num_inference_steps=2, output_type="np").images
    np.testing.assert_allclose(two[:, 0, 0, 0], [1.0, 0.5])
    three = pipe(3, class_labels=1, num_inference_steps=2, output_type="np").images
    np.testing.assert_allclose(three, np.ones((3, 2, 2, 1)))


# --- diffusers' habits ------------------------------------------------------------------------------------------------


FAST = {"num_inference_steps": 4, "output_type": "pt"}


def test_batch_size_is_the_number_of_pictures():
    pipe = quiet(BootdiffPipeline(two_views()))
    assert len(pipe(batch_size=4, **FAST).images) == 4
    want = pipe(num_images=4, seed=3, **FAST).images
    torch.testing.assert_close(pipe(4, seed=3, max_batch_size=3, **FAST).images, want, atol=1e-4, rtol=1e-4)
    assert len(pipe(**FAST).images) == 1
    # what meant samples per evaluation is refused, where it would mean something else
    with pytest.raises(ValueError, match=r"num_images=16 both give a number.*max_batch_size"):
        pipe(16, num_images=16)
    with pytest.raises(ValueError, match=r"3 class labels for batch_size=2.*max_batch_size"):
        quiet(BootdiffPipeline(ByClass()))(class_labels=[0, 1, 2], batch_size=2)


def test_one_generator_or_one_for_each_picture():
    pipe = quiet(BootdiffPipeline(two_views()))

    def seeds(*numbers):
        return [torch.Generator().manual_seed(s) for s in numbers]

    for scheduler in (pipe.scheduler, EulerAncestralDiscreteScheduler()):
        pipe.scheduler = scheduler
        three = pipe(generator=seeds(1, 2, 3), **FAST).images
        assert len(three) == 3
        again = pipe(batch_size=2, generator=seeds(3, 1), max_batch_size=1, **FAST).images
        torch.testing.assert_close(again, three[[2, 0]], atol=1e-4, rtol=1e-4)
        one = torch.Generator().manual_seed(1)
        first = pipe(2, generator=one, **FAST).images
        assert torch.equal(pipe(2, generator=torch.Generator().manual_seed(1), **FAST).images, first)
        assert not torch.allclose(pipe(2, generator=one, **FAST).images, first, atol=1e-2)  # it went on
        torch.testing.assert_close(pipe(1, generator=seeds(1)[0], **FAST).images, three[:1], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="2 generators for 3 samples"):
        pipe(3, generator=seeds(1, 2))
    with pytest.raises(ValueError, match="generator and seed"):
        pipe(generator=seeds(1)[0], seed=1)


def test_guidance_has_two_names():
    pipe = quiet(BootdiffPipeline(ByClass()))
    options = {"class_labels": [1], **FAST}
    want = pipe(**options, guidance=0.5).images
    torch.testing.assert_close(want, torch.full((1, 1, 2, 2), 0.5))  # D(no class) is -1
    assert torch.equal(pipe(**options, guidance_scale=0.5).images, want)
    with pytest.raises(ValueError, match="two names"):
        pipe(**options, guidance_scale=2, guidance=2)


def test_the_callback_sees_and_changes_every_step():
    pipe, calls = quiet(BootdiffPipeline(two_views())), []

    def watch(p, i, t, kwargs):
        calls.append((p, i, float(t), tuple(kwargs["latents"].shape)))
        return kwargs

    plain = pipe(3, **FAST).images
    watched = pipe(3, max_batch_size=2, callback_on_step_end=watch, **FAST).images
    torch.testing.assert_close(watched, plain, atol=1e-4, rtol=1e-4)
    assert [c[1] for c in calls] == [0, 1, 2, 3] * 2
    assert [c[3][0] for c in calls] == [2] * 4 + [1] * 4
    assert all(c[0] is pipe for c in calls)
    assert [c[2] for c in calls[:4]] == sorted((c[2] for c in calls[:4]), reverse=True)

    def grey(p, i, t, kwargs):
        return {"latents": torch.zeros_like(kwargs["latents"])} if i == 3 else {}

    for scheduler in (None, "heun", EulerDiscreteScheduler()):
        gray = pipe(2, callback_on_step_end=grey, scheduler=scheduler, **FAST).images
        torch.testing.assert_close(gray, torch.full((2, 3, 8, 8), 0.5))

    class Own(PipelineCallback):
        tensor_inputs = ["latents"]  # noqa: RUF012 (diffusers')

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            return grey(pipeline, step_index, timestep, callback_kwargs)

    assert float(pipe(1, callback_on_step_end=Own(), **FAST).images.std()) == 0
    with pytest.raises(ValueError, match="no prompt_embeds here; known: latents"):
        pipe(callback_on_step_end=watch, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    with pytest.raises(ValueError, match="returned a NoneType"):
        pipe(callback_on_step_end=lambda *given: None, num_inference_steps=2)


def test_schedulers_by_config_and_by_argument(tmp_path):
    pipe = quiet(BootdiffPipeline(two_views()))
    want = pipe(2, num_inference_steps=60, output_type="pt").images
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    got = pipe(2, num_inference_steps=60, output_type="pt").images
    torch.testing.assert_close(got, want, atol=0.06, rtol=0)
    for scheduler in (DPMSolverMultistepScheduler(use_karras_sigmas=True), FlowMatchEulerDiscreteScheduler(shift=3.0)):
        assert pipe(2, scheduler=scheduler, num_inference_steps=60, output_type="pt").images.shape == got.shape
    # a name goes between the noise levels of the pipeline's own
    heun = (sample(pipe.denoiser, 2, scheduler="heun", steps=4, sigma_min=0.02, sigma_max=80) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(pipe(2, scheduler="heun", **FAST).images, heun, atol=1e-3, rtol=0)
    pipe.save_pretrained(tmp_path)
    again = quiet(BootdiffPipeline.from_pretrained(tmp_path))
    assert type(again.scheduler) is EulerDiscreteScheduler
    torch.testing.assert_close(again(2, num_inference_steps=60, output_type="pt").images, got)
    with pytest.raises(ValueError, match="LCMScheduler cannot be used"):
        BootdiffPipeline(two_views(), scheduler=LCMScheduler())
    pipe.scheduler = LCMScheduler()
    with pytest.raises(ValueError, match="LCMScheduler cannot be used"):
        pipe()


def test_own_noise_levels_and_churn():
    pipe = quiet(BootdiffPipeline(two_views()))
    given = pipe(2, sigmas=[80.0, 5.0, 0.5, 0.02], output_type="pt").images
    want = (sample(pipe.denoiser, 2, sigmas=[80.0, 5.0, 0.5, 0.02]) / 2 + 0.5).clamp(0, 1)
    assert torch.equal(given, want)
    churned = pipe(2, scheduler="heun", churn=4.0, **FAST).images
    want = (sample(pipe.denoiser, 2, scheduler="heun", churn=4.0, steps=4) / 2 + 0.5).clamp(0, 1)
    assert torch.equal(churned, want)


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_scheduler_is_swapped_and_saved(tmp_path):
    d = denoiser((1, 4, 4))
    pipe = quiet(BootdiffPipeline(d))
    pipe.scheduler = diffusers_scheduler("euler").from_config({**pipe.scheduler.config, "sigma_max": 30.0})
    want = (sample(d, 2, scheduler="euler", steps=4, sigma_max=30.0) / 2 + 0.5).clamp(0, 1)
    run = {"num_images": 2, "num_inference_steps": 4, "output_type": "pt"}
    torch.testing.assert_close(pipe(**run).images, want)
    pipe.save_pretrained(tmp_path)
    again = quiet(BootdiffPipeline.from_pretrained(tmp_path))
    assert torch.equal(again(**run).images, pipe(**run).images)
    # a name is for one call, on the noise levels of the pipeline's own
    heun = (sample(d, 2, scheduler="heun", steps=4, sigma_max=30.0) / 2 + 0.5).clamp(0, 1)
    assert torch.equal(again(**run, scheduler="heun").images, heun)
    assert again.scheduler.config.sigma_max == 30.0
    other = BootdiffPipeline.from_pretrained(tmp_path, scheduler=diffusers_scheduler("dpm"))
    assert type(other.scheduler).__name__ == "EDMDPMSolverMultistepScheduler"


def test_a_pipeline_moves_as_diffusers_do():
    pipe = BootdiffPipeline(two_views())
    assert pipe.to("cpu") is pipe
    assert (pipe.device, pipe.dtype) == (torch.device("cpu"), torch.float32)
    assert set(pipe.components) == {"denoiser", "scheduler"}


def test_progress_bar_counts_steps(capsys):
    BootdiffPipeline(ByClass())(3, num_inference_steps=4, max_batch_size=2)
    assert "8/8" in capsys.readouterr().err


def vouch(folder):
    """The SHA-256 of the files around the model as they are now."""
    note_beside(folder / "denoiser", {name: sha256_of(folder / name) for name in BESIDE})


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(BootdiffError, match=r"no model\.json in it"):
        BootdiffPipeline.from_pretrained(tmp_path / "none")
    folder = tmp_path / "a"
    BootdiffPipeline(denoiser((1, 4, 4))).save_pretrained(folder)
    index = folder / "model_index.json"
    saved = index.read_text()
    for old, new, said in (
        ("BootdiffPipeline", "DDPMPipeline", "DDPMPipeline"),
        ("EDMDPMSolverMultistepScheduler", "EDMNone", "EDMNone"),
        ('"EDMDPMSolverMultistepScheduler"', '["os", "system"]', "its scheduler"),
    ):
        index.write_text(saved.replace(old, new))
        vouch(folder)
        with pytest.raises(BootdiffError, match=said):
            BootdiffPipeline.from_pretrained(folder)
    index.write_text(saved)
    vouch(folder)
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(BootdiffError, match="copy the folder again"):
        BootdiffPipeline.from_pretrained(folder)


DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "bit": lambda data: data[:-30] + bytes([data[-30] ^ 2]) + data[-29:],
    "utf-8": lambda data: data[:-30] + b"\xff" + data[-30:],
    "object": lambda data: b"{}",
    "null": lambda data: b"null",
    "list": lambda data: b"[]",
    "number": lambda data: b"5",
    "deep": lambda data: b"[" * 200_000 + b"]" * 200_000,
    "lost": None,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "pipe"
    BootdiffPipeline(two_views()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["model_index.json", "scheduler/scheduler_config.json", "denoiser/model.json", "denoiser/weights/*"]
)
def test_a_damaged_file_is_named(saved, tmp_path, name, damage):
    """A damaged key of the scheduler's config drew other samples, as diffusers takes its defaults."""
    shutil.copytree(saved, tmp_path / "pipe")
    paths = sorted((tmp_path / "pipe").glob(name))
    data = paths[0].read_bytes()
    if DAMAGES[damage] is None:
        paths[0].unlink()
    else:
        paths[0].write_bytes(DAMAGES[damage](data))
    if damage == "lost" and name == "model_index.json":
        with pytest.raises(BootdiffError, match=r"model\.json"):
            BootdiffPipeline.from_pretrained(tmp_path / "pipe")
        return
    with pytest.raises(BootdiffError, match=paths[0].name if damage != "lost" else "model|scheduler_config"):
        BootdiffPipeline.from_pretrained(tmp_path / "pipe")


@pytest.mark.parametrize(
    "change",
    [
        {"sigma_min": "x"}, {"sigma_min": -1.0}, {"sigma_min": 1e5}, {"sigma_max": 1e400}, {"sigma_data": 0},
        {"rho": 0}, {"num_train_timesteps": 10**12}, {"num_train_timesteps": "x"}, {"solver_order": 10**9},
        {"algorithm_type": "x"}, {"prediction_type": "x"}, {"final_sigmas_type": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_a_schedulers_config_that_cannot_be_is_refused(saved, tmp_path, change):
    """Also of a pipeline that vouches for it, and of one of the format before, which cannot."""
    folder = tmp_path / "pipe"
    shutil.copytree(saved, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    vouch(folder)
    with pytest.raises(BootdiffError, match=r"scheduler_config\.json"):
        BootdiffPipeline.from_pretrained(folder)
    note_beside(folder / "denoiser", {})
    with pytest.raises(BootdiffError, match=r"scheduler_config\.json"):
        BootdiffPipeline.from_pretrained(folder)


def test_the_pipelines_model_is_valid_where_its_own_is():
    class Above(IsotropicGaussian):
        def valid_at(self, sigma, label=None):
            return sigma > 1

    model = BootdiffPipeline(Above((1, 4, 4), [0.0], 0.5)).denoiser
    assert model.valid_at(torch.tensor([0.5, 2.0])).tolist() == [False, True]

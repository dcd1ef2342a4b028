"""diffusers networks as denoisers: the same mean as diffusers' own schedulers give, at and between their steps."""

from __future__ import annotations

import json

import pytest
import torch

from bootdiff.denoise import ScaledDenoiser, expand
from bootdiff.errors import BootdiffError
from bootdiff.noise import karras_levels
from bootdiff.pretrained import EDM, VARIANCE_PRESERVING, DiffusersDenoiser, is_diffusers

STEPS = 50  # of betas large enough to reach sigma = 9


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    import diffusers

    diffusers.utils.logging.disable_progress_bar()


def unet(channels=1, size=8, **options):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=options.pop("out_channels", channels),
        block_out_channels=(8, 8), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1, norm_num_groups=4, add_attention=False, **options,
    ).eval()  # fmt: skip


def saved(folder, kind="DDPMScheduler", model=None, **config):
    """A network and a scheduler in one folder, as `save_pretrained` writes them; the scheduler."""
    import diffusers

    (model or unet()).save_pretrained(folder)
    scheduler = getattr(diffusers, kind)(**config)
    scheduler.save_pretrained(folder)
    return scheduler


def inputs(sigma, channels=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    x0 = torch.rand(len(sigma), channels, 8, 8, generator=g, dtype=torch.float64) * 2 - 1
    return x0 + expand(sigma, x0) * torch.randn(x0.shape, generator=g, dtype=torch.float64)


# --- the same mean as diffusers


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_variance_preserving_steps_give_what_the_scheduler_gives(tmp_path, prediction, kind, schedule):
    betas = {"num_train_timesteps": STEPS, "beta_end": 0.2, "beta_schedule": schedule}
    scheduler = saved(tmp_path, kind, **betas, prediction_type=prediction, clip_sample=False)
    denoiser = DiffusersDenoiser.from_folder(tmp_path).double()
    scheduler.set_timesteps(STEPS)
    for t in (0, 1, 17, 30, STEPS - 2):
        a = scheduler.alphas_cumprod[t].double()
        sigma = ((1 - a) / a).sqrt().float()  # as a sampler would ask
        x = inputs(sigma.double().expand(4))
        x_t = a.sqrt() * x
        with torch.no_grad():
            f = denoiser.unet(x_t, t).sample
        want = scheduler.step(f, t, x_t, generator=torch.Generator().manual_seed(0)).pred_original_sample
        got = denoiser(x, sigma.expand(4))
        assert (got - want).abs().max() < 1e-5 * max(1, float(want.abs().max())), t


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", EDM)
def test_edm_gives_what_the_scheduler_gives(tmp_path, prediction, kind):
    scheduler = saved(tmp_path, kind, prediction_type=prediction, sigma_data=0.7)
    denoiser = DiffusersDenoiser.from_folder(tmp_path).double()
    for value in (0.01, 0.5, 3.0, 60.0):
        sigma = torch.full((4,), value, dtype=torch.float64)
        x = inputs(sigma)
        with torch.no_grad():
            f = denoiser.unet(scheduler.precondition_inputs(x, value), scheduler.precondition_noise(sigma)).sample
        want = scheduler.precondition_outputs(x, f, value)
        assert (denoiser(x, sigma) - want).abs().max() < 1e-5


def test_every_scheduler_of_the_list_has_the_same_levels(tmp_path):
    """They differ in how they sample; the noise levels are those that the network was trained at."""
    levels = []
    model = unet()
    for kind in VARIANCE_PRESERVING:
        saved(tmp_path / kind, model=model, num_train_timesteps=STEPS, beta_end=0.2)
        edit(tmp_path / kind / "scheduler_config.json", _class_name=kind)
        levels.append(DiffusersDenoiser.from_folder(tmp_path / kind).levels)
    assert all(torch.equal(one, levels[0]) for one in levels)
    assert len(levels[0]) == STEPS


def test_a_learned_variance_is_left_out(tmp_path):
    saved(tmp_path, model=unet(out_channels=2), variance_type="learned_range", num_train_timesteps=STEPS, beta_end=0.2)
    denoiser = DiffusersDenoiser.from_folder(tmp_path)
    x, sigma = inputs(torch.ones(2)).float(), torch.ones(2)
    f = denoiser.unet(x / 2**0.5, denoiser.step(sigma)).sample[:, :1]
    torch.testing.assert_close(denoiser(x, sigma), x - f)


# --- between the steps


def test_steps_are_exact_at_the_levels_and_monotone_between_them(tmp_path):
    saved(tmp_path, num_train_timesteps=1000)
    denoiser = DiffusersDenoiser.from_folder(tmp_path)
    assert torch.equal(denoiser.step(denoiser.levels.float()), torch.arange(1000.0))
    sigma = karras_levels(400, 0.02, 100.0).flip(0)
    t = denoiser.step(sigma)
    assert bool((t.diff() >= 0).all())
    below = denoiser.levels[t.floor().long()] <= sigma * (1 + 1e-4)
    assert bool((below & (denoiser.levels[t.ceil().long()] >= sigma * (1 - 1e-4))).all())


def test_the_mean_is_continuous_in_sigma(tmp_path):
    saved(tmp_path, num_train_timesteps=STEPS, beta_end=0.2)
    denoiser = DiffusersDenoiser.from_folder(tmp_path).double()
    sigma = torch.linspace(0.5, 0.6, 200, dtype=torch.float64)
    means = denoiser(inputs(torch.full((1,), 0.5)).double().expand(200, -1, -1, -1), sigma)
    jumps = means.diff(dim=0).abs().flatten(1).amax(1)
    assert jumps.max() < 20 * jumps.median()


def test_a_schedule_that_ends_in_pure_noise_loses_that_step(tmp_path):
    saved(tmp_path, "DDIMScheduler", num_train_timesteps=STEPS, beta_end=0.2, rescale_betas_zero_snr=True,
          prediction_type="v_prediction")  # fmt: skip
    denoiser = DiffusersDenoiser.from_folder(tmp_path)
    assert len(denoiser.levels) == STEPS - 1
    assert bool(denoiser.levels.isfinite().all())


def test_it_speaks_within_its_levels(tmp_path):
    saved(tmp_path, num_train_timesteps=STEPS, beta_end=0.2, beta_schedule="scaled_linear")
    denoiser = DiffusersDenoiser.from_folder(tmp_path)
    low, high = float(denoiser.levels[0]), float(denoiser.levels[-1])
    sigma = torch.tensor([low / 2, low, 1.0, high, high * 2])
    assert denoiser.valid_at(sigma).tolist() == [False, True, True, True, False]
    assert ScaledDenoiser(denoiser, 2.0).valid_at(2 * sigma).tolist() == [False, True, True, True, False]
    assert bool(denoiser(inputs(sigma.double()).float(), sigma).isfinite().all())


def test_scaled_is_the_denoiser_of_scaled_samples(tmp_path):
    """Thumbnails in view coordinates are k times the stored ones, and so is the noise that is the same for both."""
    saved(tmp_path, num_train_timesteps=STEPS, beta_end=0.2)
    denoiser = DiffusersDenoiser.from_folder(tmp_path)
    x, sigma = inputs(torch.ones(3)).float(), torch.tensor([0.3, 1.0, 2.0])
    torch.testing.assert_close(ScaledDenoiser(denoiser, 4.0)(4 * x, 4 * sigma), 4 * denoiser(x, sigma))


# --- classes


def test_labels_reach_the_network(tmp_path):
    saved(tmp_path, model=unet(num_class_embeds=3), num_train_timesteps=STEPS, beta_end=0.2)
    denoiser = DiffusersDenoiser.from_folder(tmp_path)
    x, sigma = inputs(torch.ones(3))[:1].float().expand(3, -1, -1, -1), torch.ones(3)
    each = denoiser(x, sigma, torch.tensor([0, 1, 2]))
    assert not torch.allclose(each[0], each[1])
    # All three are classes: without one, it has nothing to say.
    assert denoiser.valid_at(sigma, torch.tensor([0, -1, 2])).tolist() == [True, False, True]
    assert not denoiser.valid_at(sigma).any()
    with pytest.raises(ValueError, match="needs a class, 0 to 2"):
        denoiser(x, sigma, torch.tensor([0, -1, 2]))
    # The last one stands for "no class".
    denoiser.with_classes(2)
    torch.testing.assert_close(denoiser(x, sigma)[0], each[2])
    torch.testing.assert_close(denoiser(x, sigma, torch.tensor([-1, 1, 0])), each[[2, 1, 0]])
    assert denoiser.valid_at(sigma).all()
    with pytest.raises(ValueError, match="has 3 class numbers, not 5 classes"):
        denoiser.with_classes(5)


# --- folders


def test_a_pipeline_and_its_config_are_read(tmp_path):
    from diffusers import DDIMScheduler, DDPMPipeline

    DDPMPipeline(unet(), DDIMScheduler(num_train_timesteps=STEPS, beta_end=0.2)).save_pretrained(tmp_path)
    denoiser = DiffusersDenoiser.from_folder(tmp_path)
    assert is_diffusers(tmp_path)
    again = DiffusersDenoiser(**json.loads(json.dumps(denoiser.config)))
    again.load_state_dict(denoiser.state_dict())
    x, sigma = inputs(torch.ones(2)).float(), torch.tensor([0.3, 4.0])
    assert torch.equal(again(x, sigma), denoiser(x, sigma))
    assert str(tmp_path) not in json.dumps(denoiser.config)
    assert torch.equal(DiffusersDenoiser.from_folder(tmp_path / "unet")(x, sigma), denoiser(x, sigma))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "changes", "match"),
    [
        ("config.json", {"_class_name": "UNet2DConditionModel"}, "is a UNet2DConditionModel; a view"),
        ("config.json", {"sample_size": None}, "no sample_size"),
        ("config.json", {"out_channels": 2}, "1 input and 2 output channels"),
        ("config.json", {"time_embedding_type": "fourier"}, "embeds its time as 'fourier'"),
        ("config.json", {"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
        ("config.json", {"block_out_channels": [16, 8]}, "cannot be read|missing or of another shape"),
        (
            "scheduler_config.json",
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "is not supported; supported: DDPM",
        ),
        ("scheduler_config.json", {"beta_schedule": "exp"}, "beta_schedule 'exp' is not known"),
        ("scheduler_config.json", {"prediction_type": "flow"}, "predicts 'flow'; supported for DDPMScheduler: epsilon"),
    ],
)
def test_what_cannot_be_converted_is_refused(tmp_path, file, changes, match):
    saved(tmp_path, num_train_timesteps=STEPS, beta_end=0.2)
    edit(tmp_path / file, **changes)
    with pytest.raises(BootdiffError, match=match) as caught:
        DiffusersDenoiser.from_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_pickled_and_missing_and_damaged_files_are_refused(tmp_path):
    saved(tmp_path, num_train_timesteps=STEPS, beta_end=0.2)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(BootdiffError, match="cannot be read"):
        DiffusersDenoiser.from_folder(tmp_path)
    weights.unlink()
    with pytest.raises(BootdiffError, match=r"no diffusion_pytorch_model.safetensors in it"):
        DiffusersDenoiser.from_folder(tmp_path)
    weights.with_suffix(".bin").write_bytes(b"x")
    with pytest.raises(BootdiffError, match=r"pickled .bin file.*save it again as safetensors"):
        DiffusersDenoiser.from_folder(tmp_path)
    (tmp_path / "scheduler_config.json").unlink()
    with pytest.raises(BootdiffError, match="no scheduler_config"):
        DiffusersDenoiser.from_folder(tmp_path)
    assert not is_diffusers(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "index",
    [
        {"vqvae": ["diffusers", "VQModel"]},
        {"vae": ["diffusers", "AutoencoderKL"]},
        {"first_stage": ["diffusers", "AutoencoderTiny"]},
        None,
    ],
)
def test_latent_models_are_refused_by_name(tmp_path, index):
    saved(tmp_path / "scheduler")
    unet().save_pretrained(tmp_path / "unet")
    parts = {"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"], "vqvae": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps(parts))
    DiffusersDenoiser.from_folder(tmp_path)  # a part that is left out is none
    if index is None:  # copied without its index
        (tmp_path / "model_index.json").unlink()
        (tmp_path / "vqvae").mkdir()
        (tmp_path / "vqvae" / "config.json").write_text("{}")
    else:
        (tmp_path / "model_index.json").write_text(json.dumps({**parts, **index}))
    name = next(iter(index or {"vqvae": 0}))
    for folder in (tmp_path, tmp_path / "unet"):
        with pytest.raises(BootdiffError, match=rf"is a latent model: its network works on what its {name} .*pixels"):
            DiffusersDenoiser.from_folder(folder)

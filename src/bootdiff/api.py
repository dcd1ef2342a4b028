"""The door for Python: data as tensors or data sets, own networks and views, no recipe.

    model = bootdiff.fit(
        full=x_full,                                                 # a few full samples
        views={"thumbs": (bootdiff.Downsample(4), thumbnails)},      # plenty of partial ones
    )

What the command line does from a recipe, `fit` does from objects: it makes the `Problem` and the `MethodSettings`,
carries out the stages of `method.stages`, and keeps the report of a run's folder up to date (`cli.report`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bootdiff.data import Dataset, as_dataset
from bootdiff.data.dataset import VIEW_HOLDOUT, held_out_count
from bootdiff.data.value_range import check_same_range
from bootdiff.denoise import Denoiser, ScaledDenoiser
from bootdiff.errors import BootdiffError
from bootdiff.method.plan import ARMS
from bootdiff.method.problem import (
    Problem,
    ViewData,
    hold_out,
    partial_data,
    with_common_classes,
)
from bootdiff.method.settings import (
    PARTS,
    DistillationSettings,
    GainSettings,
    MethodSettings,
    ResidualSettings,
    SamplingSettings,
    ViewSettings,
)
from bootdiff.method.stages import Bootstrap
from bootdiff.nets.network import Network, as_network, default_networks, divided
from bootdiff.noise import LEVELS
from bootdiff.serialization import save
from bootdiff.training.device import device_name, make_accelerator
from bootdiff.training.run import Run
from bootdiff.training.settings import TrainingSettings
from bootdiff.views import VIEWS, View
from bootdiff.views.laws import check_view

if TYPE_CHECKING:
    from bootdiff.cli.report.record import RunRecord

__all__ = ["fit"]

_PARTS = ("views", *PARTS)


def fit(
    full: Any,
    views: Mapping[str, Sequence[Any]],
    *,
    networks: Any = None,
    training: TrainingSettings | Mapping[str, TrainingSettings] | None = None,
    run: str | Path | None = None,
    arm: str = "bootdiff",
    held_out: Any = 0.2,
    test: Any = None,
    oracle: Any = None,
    init: Mapping[str, Denoiser] | None = None,
    gains: GainSettings | None = None,
    residual: ResidualSettings | None = None,
    distillation: DistillationSettings | None = None,
    sampling: SamplingSettings | None = None,
    levels: Sequence[float] = LEVELS,
    flip: Literal["none", "horizontal"] = "none",
    seed: int = 0,
    device: str = "auto",
    reuse: Sequence[str | Path] = (),
    log: Callable[[str], None] | None = print,
    progress: Callable[[Any], None] | None = None,
) -> Denoiser:
    """Train a model of full samples from a few of them and plenty of partial ones.

    Args:
        full: the full samples: a tensor or array (n, C, *space) in [-1, 1], a map-style torch Dataset, or what
            `bootdiff.open` returned (`data.as_dataset`).
        views: name -> (view, its files), likewise in stored coordinates; or (view, denoiser) for a model of such files
            that is there already; or (view, files, TrainingSettings).
        networks: name -> network, each trained separately and stacked; or a single one.  A network is a name ("unet",
            "local", "mlp", "linear"), a module, or a class or function f(c_in, c_out) that makes one, called as
            net(x, c_noise, label=None).  None: a UNet and a local net, for vectors an MLP and a linear map.
        training: of every network; or by part: "views", "full", "visible" (by default as "views"), "residual",
            "oracle", "distilled", the others having the defaults.
        run: folder of the run: killed, the same call goes on; called with more steps, it trains on.  None: a temporary
            folder.  It gets report.html, a page that says how the training stands and what came of it.
        arm: what to train: "bootdiff", "full_only", "views_only", "unregularized", "distilled" or "oracle".
        held_out: full samples to choose with, never trained on: a number, a share, or samples.
        test: full samples for reporting only, not used here: for `evaluation`.
        oracle: all of the data in full, for the arm "oracle".
        init: "full", "visible", "residual" or a view's name -> a model to start at (`bootdiff.load`, or
            `DiffusersDenoiser.from_folder`), whose networks have the form of those that are trained.
        gains, residual, distillation, sampling: settings of these parts; None: the defaults.
        levels: noise levels (standard deviations, in units of the data) at which things are fitted.
        flip: "horizontal" mirrors images and videos at random.
        seed: of everything random.
        device: "auto", "cpu", "cuda" or "mps".
        reuse: other runs, whose stages of the same data and settings are copied.
        log: called with a line per finished stage; None: silence.
        progress: called a few times a second with a `training.loop.Progress`.

    Returns:
        The finished denoiser D(x, sigma), in evaluation mode; `bootdiff.sample` draws from it, `bootdiff.save` keeps
        it.

    Raises:
        BootdiffError: data, views, networks or a run that do not fit; it says what, where and what to do.
        ValueError: wrong arguments.
    """
    if arm not in ARMS:
        raise ValueError(f"no arm {arm!r}; known: {', '.join(ARMS)}")
    if arm == "oracle" and oracle is None:
        raise ValueError("the arm 'oracle' is trained on all of the data in full: give `oracle`")
    problem = _problem(full, views, held_out, test, oracle, seed)
    settings = _settings(problem, views, networks, training, init or {}, levels)
    settings = replace(
        settings, seed=seed, flip=flip, gains=gains or GainSettings(),
        residual=residual or ResidualSettings(), distillation=_distillation(distillation),
        sampling=sampling or SamplingSettings(),
    )  # fmt: skip
    accelerator = make_accelerator(device, settings.precision)
    if run is None and accelerator.num_processes > 1:
        raise BootdiffError("run: several processes work in one folder; give it")
    say = log if log is not None and accelerator.is_main_process else (lambda text: None)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bootdiff-")) if run is None else run
        main = accelerator.is_main_process
        how = {
            "processes": accelerator.num_processes,
            "device": device_name(accelerator.device),
            "precision": accelerator.mixed_precision,
        }
        opened = stack.enter_context(Run.open(folder, None, problem.fingerprint(), seed=seed, main=main, **how))
        for remark in opened.remarks if main else ():
            say(remark)
        accelerator.wait_for_everyone()
        record = None if run is None else _record(opened, problem, say, main)
        stages = Bootstrap(
            settings, problem, opened, accelerator, record.progress(progress) if record else progress,
            record.log(say) if record else say, list(reuse),
            watch=record.previews(settings.sampling) if record else None,
        )  # fmt: skip
        stages.check_networks([arm])
        if record is not None:
            stack.enter_context(record.written(stages, [arm]))
        model = stages.denoiser(arm)
        if main:
            save(model, opened.path / arm)
        accelerator.wait_for_everyone()
    return model


def _record(run: Run, problem: Problem, say: Callable[[str], None], main: bool) -> RunRecord:
    """What writes of a run for people; it draws, so a run in a temporary folder does without."""
    from bootdiff.cli.report.record import RunRecord

    record = RunRecord(run, problem, say, main=main)
    record.describe()
    return record


def _problem(
    full: Any, views: Mapping[str, Sequence[Any]], held_out: Any, test: Any, oracle: Any, seed: int
) -> Problem:
    samples = _dataset(full, "full")
    if isinstance(held_out, int | float) and not isinstance(held_out, bool):
        count = held_out_count("held_out of full", held_out, len(samples))
        held, train = hold_out(samples, count, seed + 1, "full")
    else:
        held, train = _dataset(held_out, "held_out"), samples  # type: ignore[assignment]
    if not views:
        raise ValueError("no views: give at least one kind of partial data, name -> (view, files)")
    shape = tuple(samples.shape)
    for what, other in (("held_out", held), ("test", test), ("oracle", oracle)):
        if other is None:
            continue
        found = _dataset(other, what)
        if tuple(found.shape) != shape:
            raise BootdiffError(f"{what}: samples are {tuple(found.shape)}, the full ones {shape}; they must be alike")
        check_same_range(found, samples.units, what)
    parts = {name: _view(name, given, samples, seed) for name, given in views.items()}
    problem = Problem(
        train, held, parts, None if test is None else _dataset(test, "test"),
        None if oracle is None else _dataset(oracle, "oracle"),
    )  # fmt: skip
    return with_common_classes(problem)


def _dataset(value: Any, where: str) -> Dataset:
    return value if isinstance(value, Dataset) else as_dataset(value, where=where)


def _view(name: str, given: Sequence[Any], full: Dataset, seed: int) -> ViewData:
    at = f"views[{name!r}]"
    if not isinstance(given, tuple | list) or len(given) not in (2, 3) or not isinstance(given[0], View):
        raise ValueError(f"{at} must be (view, files), as (Downsample(4), thumbnails); got {type(given).__name__}")
    view, data = given[0], given[1]
    shape = tuple(full.shape)
    try:
        view.shape(shape)
        if type(view) not in VIEWS.values():
            check_view(view, shape)
    except ValueError as error:
        raise BootdiffError(f"{at}: {error}") from None
    if isinstance(data, Denoiser):
        wanted = tuple(view.shape(shape))
        if tuple(data.shape) != wanted:
            raise BootdiffError(f"{at}: its model is of samples of {tuple(data.shape)}, the view's are {wanted}")
        model = data if view.scale == 1 else ScaledDenoiser(data, view.scale)
        return ViewData(view, view, pretrained=model.requires_grad_(False).eval())
    dataset = partial_data(view, _dataset(data, at), shape, at, full_samples=full)
    count = held_out_count(at, 0.1, len(dataset), VIEW_HOLDOUT)
    held, train = hold_out(dataset, count, seed + 2, at)
    return ViewData(view, view, train, held)


def _settings(
    problem: Problem,
    views: Mapping[str, Sequence[Any]],
    networks: Any,
    training: Any,
    init: Mapping[str, Denoiser],
    levels: Sequence[float],
) -> MethodSettings:
    given = _networks(networks, len(problem.shape) - 1)
    if isinstance(training, Mapping):
        unknown = sorted(set(training) - set(_PARTS))
        if unknown:
            raise ValueError(f"training: no part {unknown[0]!r}; known: {', '.join(_PARTS)}")
        as_views = training.get("views", TrainingSettings())
        by_part = {part: training.get(part, as_views if part == "visible" else TrainingSettings()) for part in _PARTS}
    else:
        by_part = dict.fromkeys(_PARTS, training or TrainingSettings())
    by_part = {part: replace(how, warmup=min(how.warmup, how.steps)) for part, how in by_part.items()}
    own = {name: v[2] for name, v in views.items() if len(v) == 3}
    parts = {name: ViewSettings(given, own.get(name, by_part["views"])) for name in problem.views}
    unknown = sorted(set(init) - {"full", "visible", "residual", "oracle", *problem.views})
    if unknown:
        raise ValueError(f"init: no {unknown[0]!r}; known: full, visible, residual, oracle, {', '.join(problem.views)}")
    return MethodSettings(
        given, parts, {part: by_part[part] for part in PARTS}, tuple(map(float, levels)), init=dict(init)
    )


def _networks(networks: Any, axes: int) -> dict[str, Network]:
    if networks is None:
        return divided(default_networks(axes))
    if isinstance(networks, Mapping):
        if not networks:
            raise ValueError("networks: give at least one, or leave them out")
        return divided({str(name): as_network(network) for name, network in networks.items()})
    return {networks if isinstance(networks, str) else "own": as_network(networks)}


def _distillation(given: DistillationSettings | None) -> DistillationSettings:
    if given is None or given.networks is None:
        return given or DistillationSettings()
    return replace(given, networks=_networks(given.networks, 0))

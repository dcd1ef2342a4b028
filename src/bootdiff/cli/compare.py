"""Arms compared: trained, evaluated on samples that no arm was trained on, sampled and reported.

A run gets
    metrics.json            everything that is printed, and more (`evaluation.evaluate.write_metrics`)
    table.md                the table of losses; why views were left out; what they can bring at most, where measured
    losses.png levels.png   loss curves; loss per noise level against full-only training
    samples.png             samples of the arms beside real ones; samples/<arm>.png (and .gif of videos) of each
    samples/<arm>.safetensors   the samples themselves (images in 8 bits), so that they are not drawn twice
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from bootdiff.cli.console import Console
from bootdiff.cli.jobs import train_at_once
from bootdiff.cli.report import ceilings as ceiling_report
from bootdiff.cli.report import curves, images, tables
from bootdiff.cli.report.metadata import DataInfo
from bootdiff.cli.report.record import read_ledger
from bootdiff.cli.session import (
    Session,
    arms_of,
    device_of,
    load_arm,
    open_session,
    read_run,
    saved_arms,
)
from bootdiff.data import Dataset, kind_of, measure
from bootdiff.denoise import Denoiser, IsotropicGaussian
from bootdiff.errors import BootdiffError
from bootdiff.evaluation import ceilings, costs, evaluate
from bootdiff.evaluation.features import Features, is_program, load_features
from bootdiff.evaluation.sample_quality import long_range, sample_quality
from bootdiff.method import left_out
from bootdiff.method.plan import plan
from bootdiff.method.problem import Problem, in_memory
from bootdiff.method.validation import SampleSet
from bootdiff.recipe.build import build_problem, method_settings
from bootdiff.recipe.schema import Recipe
from bootdiff.sampling import classes_of, sample
from bootdiff.training.files import atomic_write_text, load_tensors, save_tensors, write_stamped
from bootdiff.training.run import Run

__all__ = [
    "Assessment",
    "assess",
    "assess_run",
    "check_features",
    "compare",
    "compare_seeds",
    "draw",
    "drawn_once",
    "open_assessment",
    "print_results",
    "qualities",
    "weights_of",
]

# Reports have their own seeds for noise and samples, which no choice in training used.
_NOISE, _DRAW = 7, 0


@dataclass
class Assessment:
    """Finished denoisers and what they are measured with. `folder`, the run's, gets the results."""

    recipe: Recipe
    problem: Problem
    folder: Path
    denoisers: Mapping[str, Denoiser]
    costs: Mapping[str, Any]
    screen: Console
    device: torch.device
    samples: int | None = None
    features: str | None = None
    ceilings: Mapping[str, Any] | None = None

    @property
    def reference(self) -> Dataset:
        """The samples to measure on: the test set, or the held-out full samples without one."""
        return self.problem.test if self.problem.test is not None else self.problem.held_out

    @property
    def evaluated_on(self) -> str:
        """Which of the two: a key of `EVALUATED_ON`."""
        return "test" if self.problem.test is not None else "held-out"


def compare(
    session: Session,
    arms: Sequence[str] = (),
    samples: int | None = None,
    features: str | None = None,
    *,
    jobs: int = 1,
    reuse: Sequence[Path] = (),
) -> dict[str, Any]:
    """Train the arms (none given: all possible ones), measure them and write metrics.json; returns its content.

    jobs, reuse: as of `train_at_once`.

    Raises:
        BootdiffError: as `check_features`, before anything is trained; no such arm.
    """
    check_features(session.recipe, features)
    arms = arms_of(session.problem, arms)
    session.expect(arms)
    train_at_once(session, arms, jobs, reuse)
    denoisers = {arm: session.train(arm) for arm in arms}
    costs = session.write_ledger()
    if not session.main:
        return {}
    session.record.draw_losses()
    a = Assessment(
        session.recipe, session.problem, session.run.path, denoisers, costs, session.screen,
        session.accelerator.device, samples, features,
    )  # fmt: skip
    return assess(a)


def check_features(recipe: Recipe, given: str | None) -> None:
    """Refuse a recipe that names a program: recipes are data, and may come from anyone.

    Args:
        given: by the command line, which is the user's own word; None: the recipe's count.

    Raises:
        BootdiffError: the recipe names TorchScript.
    """
    named = recipe.evaluate.features
    if given is None and is_program(named):
        raise BootdiffError(
            f"evaluate.features: {named} is TorchScript, a program that may do whatever you may do, and no recipe runs "
            f"one. If you trust it, name it yourself: --features {recipe.locate(named)}"
        )


def assess(a: Assessment) -> dict[str, Any]:
    """Measure finished denoisers, print the tables, write images and metrics.json; returns its content."""
    base, levels = _base(a), list(a.recipe.levels)
    a.screen.print(f"measuring the denoising loss of {len(a.denoisers)} arm(s) on {len(a.reference)} samples")
    by_sample = evaluate.sample_losses(
        a.denoisers, _on_device(a, a.reference), levels, base, a.recipe.evaluate.draws, _NOISE
    )
    losses = evaluate.tabulate(by_sample, levels)
    gap = evaluate.gap_closed(losses) if {"full_only", "bootdiff", "oracle"} <= set(losses) else None
    nats = None
    if {"views_only", "bootdiff"} <= set(losses) and len(levels) > 1:
        nats = evaluate.information(by_sample, levels, base)
    needed = plan(method_settings(a.recipe, a.problem.shape), a.problem, list(losses))
    try:
        cost = costs.costs(a.costs, needed)
    except ValueError as error:
        raise BootdiffError(
            f"{a.folder / 'ledger.json'}: {error}. Run the command that trained {', '.join(losses)} again: it writes "
            "what is missing"
        ) from None
    note = evaluate.EVALUATED_ON[a.evaluated_on]
    a.screen.show(
        *tables.losses(losses, f"{len(a.reference)} samples, {note}", gap), tables.levels(losses),
        *tables.information(nats),
    )  # fmt: skip
    a.screen.show(tables.costs(cost), tables.stages(a.costs))
    left = left_out.recorded(Run.read(a.folder))
    most = _ceilings(a, by_sample, levels, base)
    said = [f"{text}." for text in left.values()] + ([] if most is None else ceiling_report.sentences(most))
    for text in said:
        a.screen.print(text)
    atomic_write_text(a.folder / "table.md", "\n\n".join([evaluate.markdown_table(losses), *said]) + "\n")
    if len(losses) > 1:
        curves.level_curves(losses, a.folder / "levels.png")
    kind = kind_of(a.problem.shape)
    count = a.recipe.evaluate.count(kind) if a.samples is None else a.samples
    drawn = {arm: draw(a, arm, max(count, a.recipe.sampling.count)) for arm in a.denoisers}
    sheets(a, drawn)
    quality = qualities(a, {arm: x[:count] for arm, x in drawn.items()}) if count else None
    if quality:
        a.screen.show(*tables.quality(quality))
    far = None
    if kind in ("signal", "video"):
        far = {arm: long_range(x, a.reference) for arm, x in drawn.items()}
        a.screen.show(*tables.long_range(far))
    return evaluate.write_metrics(
        a.folder / "metrics.json", table=losses, levels=levels, count=len(a.reference), evaluated_on=a.evaluated_on,
        seed=a.recipe.seed, recipe=yaml.safe_load(a.recipe.dump(absolute=False)), gap=gap, information=nats,
        ceilings=most, left_out=left, samples=quality, long_range=far,
        ledger={"stages": dict(a.costs), "arms": cost},
    )  # fmt: skip


def _base(a: Assessment) -> IsotropicGaussian:
    found = measure(a.problem.full)
    return IsotropicGaussian(a.problem.shape, found["mean"], found["sigma_data"]).to(a.device)


def _ceilings(
    a: Assessment, losses: Mapping[str, Tensor], levels: Sequence[float], base: IsotropicGaussian
) -> dict[str, Any] | None:
    """The measured ceilings beside the arms."""
    if a.ceilings is None:
        return None
    everything = None if a.problem.oracle is None else len(a.problem.oracle)
    found = ceilings.against_run(a.ceilings["views"], losses, levels, base, len(a.problem.full), everything)
    return found | {"not_measured": a.ceilings["not_measured"]}


def _on_device(a: Assessment, source: Dataset) -> SampleSet:
    held = in_memory(source)
    return SampleSet(*(None if v is None else v.to(a.device) for v in (held.x, held.label, held.mask)))  # type: ignore[arg-type]


def draw(a: Assessment, arm: str, count: int) -> Tensor:
    """The first `count` samples of an arm, (count, C, *space) in stored coordinates.

    Images and videos are in [-1, 1] and of 8 bits, as files would hold them.
    """
    return drawn_once(a, a.denoisers[arm], count, arm, weights_of(a.folder / arm))


def drawn_once(a: Assessment, denoiser: Denoiser, count: int, name: str, weights: str) -> Tensor:
    """As `draw`, for any denoiser: its samples are kept in samples/<name>.safetensors for the next time.

    Args:
        weights: changes with the denoiser: samples of other weights are drawn again.
    """
    path = a.folder / "samples" / f"{name}.safetensors"
    how = asdict(a.recipe.sampling.settings()) | {"seed": _DRAW, "weights": weights}
    if path.is_file():
        try:
            tensors, meta = load_tensors(path, remedy="they are drawn again")
            if meta == how and len(tensors["x"]) >= count:
                return _as_drawn(tensors["x"][:count])
        except BootdiffError as error:
            a.screen.print(str(error), "yellow")
    # Equally many of each class, if the arm has classes.
    classes = classes_of(denoiser)
    labels = [i % classes for i in range(count)] if classes else None
    with a.screen.work(f"samples of {name}") as done:
        x = sample(
            denoiser, count, seed=_DRAW, label=labels, scheduler=how["scheduler"], steps=how["steps"],
            sigma_min=how["sigma_min"], sigma_max=how["sigma_max"], noise_shift=how["noise_shift"], progress=done,
        )  # fmt: skip
    x = x.cpu()
    if kind_of(a.problem.shape) in ("image", "video"):
        x = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {"x": x}, how)
    return _as_drawn(x)


def _as_drawn(x: Tensor) -> Tensor:
    return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x


def weights_of(folder: Path) -> str:
    """Changes with the weights of the model saved in a folder: its model.json names them by their SHA-256."""
    return hashlib.sha256((folder / "model.json").read_bytes()).hexdigest()[:16]


def sheets(a: Assessment, drawn: Mapping[str, Tensor]) -> None:
    """samples/<arm>.png, samples/real.png, and samples.png with the main ones side by side; videos also as GIF."""
    n, info = a.recipe.sampling.count, DataInfo.of(a.problem.full)
    real = torch.stack([a.reference[i].x for i in range(min(n, len(a.reference)))])
    samples = {arm: x[:n] for arm, x in drawn.items()} | {"real": real}
    sheet = {name: images.sheet(x, info, None if name == "real" else real) for name, x in samples.items()}
    for name, image in sheet.items():
        title = "real, not trained on" if name == "real" else f"samples of {name.replace('_', ' ')}"
        images.save_png(images.panels({title: image}), a.folder / "samples" / f"{name}.png")
        if kind_of(a.problem.shape) == "video":
            images.save_gif(samples[name][:16], a.folder / "samples" / f"{name}.gif", info.rate)
    beside = {name.replace("_", " "): sheet[name] for name in ("full_only", "bootdiff", "real") if name in sheet}
    images.save_png(images.panels(beside, a.recipe.name), a.folder / "samples.png")


def qualities(a: Assessment, drawn: Mapping[str, Tensor]) -> dict[str, Any]:
    """Figures of several sets of samples by the same feature network: name -> `sample_quality`."""
    features = _features(a)
    results = {}
    for arm, x in drawn.items():
        a.screen.print(f"measuring {len(x)} samples of {arm}")
        results[arm] = sample_quality(
            x, a.reference, a.problem.full, a.problem.held_out, features, mirrored=a.recipe.flip != "none",
            floor=a.recipe.sampling.sigma_min,
        )  # fmt: skip
    return results


def _features(a: Assessment) -> Features:
    spec = a.features or a.recipe.evaluate.features
    # All full samples except the test set: one good network, the same for all arms.
    pool = a.problem.oracle if a.problem.oracle is not None else a.problem.full
    if spec not in ("auto", "classifier", "autoencoder"):
        path = spec if a.features else a.recipe.locate(spec)
        return load_features(path, a.problem.full, device=a.device)
    key = hashlib.sha256(json.dumps([spec, pool.fingerprint(), a.recipe.seed]).encode()).hexdigest()[:12]
    path = a.folder / f"features-{key}.safetensors"
    if path.is_file():
        try:
            return load_features(path, device=a.device)
        except BootdiffError as error:
            a.screen.print(f"{error}: trained again", "yellow")
    a.screen.print(f"training the feature network ({spec}) on {len(pool)} samples")
    features = load_features(spec, pool, seed=a.recipe.seed, device=a.device)
    features.save(path)
    return features


def compare_seeds(
    recipe: Recipe,
    folder: Path,
    seeds: Sequence[int],
    screen: Console,
    arms: Sequence[str] = (),
    reuse: Sequence[str | Path] = (),
    samples: int | None = None,
    *,
    features: str | None = None,
    track: Sequence[str] = (),
    jobs: int = 1,
) -> dict[str, Any]:
    """`compare` for each seed in folder/seed-S, and one table and one metrics.json of all of them.

    The seed redraws everything: which images stay full, weights, batches. Standard errors are over the seeds.
    """
    results = []
    for seed in seeds:
        screen.print(f"\nseed {seed}", "bold")
        there = [path for other in reuse for path in (Path(other) / f"seed-{seed}", Path(other)) if path.is_dir()]
        own = recipe.model_copy(update={"seed": seed})
        with open_session(own, folder / f"seed-{seed}", screen, reuse=there, track=track) as session:
            results.append(compare(session, arms, samples, features, jobs=jobs, reuse=there))
            main = session.main
    if not main:
        return {}
    both = tables.over_seeds(results)
    losses, count = both["holdout_loss"], results[0]["count"]
    screen.print(f"\nseeds {', '.join(map(str, seeds))}: means, and standard errors over the seeds", "bold")
    measured_on = f"{count} samples per seed, {results[0]['evaluated_on']}"
    screen.show(*tables.losses(losses, measured_on, both["gap_closed"]), tables.levels(losses))
    screen.show(*tables.quality_over_seeds(both["samples"]))
    if len(losses) > 1:
        curves.level_curves(losses, folder / "levels.png")
    atomic_write_text(folder / "table.md", evaluate.markdown_table(losses) + "\n")
    shutil.copyfile(folder / f"seed-{seeds[0]}" / "samples.png", folder / "samples.png")
    shared = {key: results[0][key] for key in ("recipe", "evaluated_on", "count", "levels", "versions", "command")}
    shared["recipe"] = {**shared["recipe"], "seed": list(seeds)}
    content = shared | {"seeds": list(seeds), **both, "runs": {f"seed-{s}": r for s, r in zip(seeds, results)}}
    write_stamped(folder / "metrics.json", content)
    return content


def assess_run(
    folder: Path,
    arms: Sequence[str],
    samples: int | None,
    features: str | None,
    screen: Console,
    ceilings: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """`assess` for the trained arms of a run on disk (or only those given); raises as `open_assessment`.

    Args:
        ceilings: by `cli.ceilings.measure`, to be written with the rest.
    """
    return assess(replace(open_assessment(folder, arms, samples, features, screen, device), ceilings=ceilings))


def open_assessment(
    folder: Path,
    arms: Sequence[str],
    samples: int | None,
    features: str | None,
    screen: Console,
    device: str | None = None,
) -> Assessment:
    """The trained arms of a run on disk (or only those given), and what to measure them with.

    Raises:
        BootdiffError: no run, no trained arm, data that are no longer what the run was trained on.
    """
    run, recipe = read_run(folder, device)
    check_features(recipe, features)
    there = saved_arms(folder)
    names = [arm for arm in there if arm in arms] if arms else there
    missing = [arm for arm in arms if arm not in there]
    if missing or not names:
        what = f"no trained arm {missing[0]!r} in it" if missing else "no trained arm in it yet"
        raise BootdiffError(f"{folder}: {what} (there: {', '.join(there) or 'none'}); train it with `fit --arm` first")
    where = device_of(recipe)
    problem = build_problem(recipe)
    if problem.fingerprint() != run.fingerprint:
        raise BootdiffError(
            f"{folder}: the data are not what this run was trained on (files added, removed or changed); restore them"
        )
    denoisers = {arm: load_arm(folder, arm, where)[1] for arm in names}
    costs = read_ledger(run)
    return Assessment(recipe, problem, run.path, denoisers, costs, screen, where, samples, features)


def print_results(folder: Path, screen: Console) -> None:
    """Print where a comparison's images and figures are."""
    # Several seeds have a report each; samples are not always drawn.
    there = [path for name in ("report.html", "samples.png", "levels.png") if (path := folder / name).is_file()]
    screen.print(f"Look at {', '.join(map(str, there))}; the figures are in {folder / 'metrics.json'}", "bold")

"""The work of `bootdiff restore`: partial files and their truth, and the folder of answers with its report.

A folder of answers gets

    answers/NAME-1.png ...    the completed files (videos: .gif; signals: .csv; vectors: 1.csv ..., a row for each
                              file); of images and videos, mean/ and spread/ beside them
    answers.npy               all of them, (files, answers, *space, C), in the units of the data
    spread.npz                mean and spread (standard deviation over the answers) of each file, and the files' names
    overview.png              the input, mean, spread and answers of the first files side by side
    report.json               the settings, how well A x = y holds, and the quality where the truth is known
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bootdiff.cli.console import Console
from bootdiff.cli.report import images
from bootdiff.cli.report.metadata import DataInfo
from bootdiff.cli.report.tables import plain_table
from bootdiff.cli.report.writers import as_stored, write_table
from bootdiff.data import Dataset, Simulated, Subset, kind_of, spaced_indices
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError
from bootdiff.evaluation import restoration
from bootdiff.method.problem import Problem
from bootdiff.restoration import Observation, observe
from bootdiff.training.files import atomic_write_bytes, atomic_write_json
from bootdiff.views import View, to_config

__all__ = ["Partial", "agreement", "cut_out", "partial_of", "report", "write_answers"]

_SHOWN = 8  # files in the overview


@dataclass
class Partial:
    """Partial samples to restore: as stored, with their masks and names, and the truth where it is known."""

    stored: Tensor
    mask: Tensor | None
    names: list[str]
    truth: Tensor | None = None
    label: Tensor | None = None

    def observe(self, view: View, full: Sequence[int], where: str) -> Observation:
        """Checked against the view. Raises BootdiffError."""
        try:
            return observe(self.stored, view, full, self.mask)
        except ValueError as error:
            raise BootdiffError(f"{where}: {error}") from None


def partial_of(source: Dataset, view: View, full: Sequence[int], truth: Dataset | None = None) -> Partial:
    """All samples of a dataset, as partial samples; the truth matched by name, or else by order.

    Raises:
        BootdiffError: sizes that do not match the view, truth of a different number or size.
    """
    try:
        wanted = tuple(view.shape(tuple(full)))
    except ValueError as error:
        raise BootdiffError(f"--view: {error}") from None
    if tuple(source.shape) != wanted:
        raise BootdiffError(
            f"{source.where}: its files are {_by(source.shape)}, but this view of full samples of {_by(full)} is "
            f"{_by(wanted)}; give different files, or their view"
        )
    x, _, mask = source.batch(range(len(source)))
    names = _distinct([source.name(i) for i in range(len(source))])
    if truth is None:
        return Partial(x, mask, names)
    if tuple(truth.shape) != tuple(full):
        raise BootdiffError(f"--truth {truth.where}: its samples are {_by(truth.shape)}, full ones are {_by(full)}")
    if len(truth) != len(source):
        raise BootdiffError(
            f"--truth {truth.where}: holds {len(truth)} samples, {source.where} {len(source)}; each file needs one"
        )
    known = {name: i for i, name in enumerate(_distinct([truth.name(i) for i in range(len(truth))]))}
    order = [known[n] for n in names] if set(known) == set(names) else range(len(truth))
    return Partial(x, mask, names, truth.batch(list(order))[0])


def cut_out(problem: Problem, view: View, count: int, seed: int) -> tuple[Partial, str]:
    """The view of `count` full samples that were not trained on, and which they are ("test" or "held-out").

    Raises:
        BootdiffError: fewer samples than that.
    """
    source, which = (problem.held_out, "held-out") if problem.test is None else (problem.test, "test")
    if count > len(source):
        raise BootdiffError(f"--held-out {count}: there are {len(source)} {which} samples; choose at most that many")
    chosen = Subset(source, spaced_indices(len(source), count))
    cut = Simulated(chosen, view, seed=seed)
    x, label, mask = cut.batch(range(count))
    names = _distinct([chosen.name(i) for i in range(count)])
    return Partial(x, mask, names, chosen.batch(range(count))[0], label), which


def agreement(answers: Tensor, given: Observation, written: Tensor | None = None) -> dict[str, Any]:
    """How well A x = y holds, in stored coordinates.

    Args:
        answers: (n, K, *full).
        given: the partial samples.
        written: the answers as the files hold them, where these are of 8 bits.

    Returns:
        {"max": largest |A x - y| / scale; "written": the same of the written files, None where they are exact;
        "noise": root mean square of A x - y in units of y's noise (about 1 where y is noisy), None without noise}.
    """
    gaps = _gaps(answers, given)
    out: dict[str, Any] = {"max": float(gaps.abs().max() / given.view.scale), "written": None, "noise": None}
    if written is not None:
        out["written"] = float(_gaps(written, given).abs().max() / given.view.scale)
    if given.tau > 0:
        observed = given.apply(given.lift(torch.ones_like(given.y))).abs() > 1e-6
        out["noise"] = float(gaps[observed.repeat_interleave(answers.shape[1], 0)].square().mean().sqrt() / given.tau)
    return out


def _gaps(answers: Tensor, given: Observation) -> Tensor:
    """A x - y of every answer, (n K, *view)."""
    every = given.rows(torch.arange(len(given)).repeat_interleave(answers.shape[1]))
    return every.apply(answers.flatten(0, 1)) - every.y


def write_answers(
    out: Path, answers: Tensor, partial: Partial, given: Observation, info: DataInfo, title: str
) -> Tensor | None:
    """Write answers, means and spreads of every file; returns the answers as 8-bit files hold them, None if exact.

    Raises:
        BootdiffError: the folder cannot be written.
    """
    n, count, kind = *answers.shape[:2], kind_of(answers.shape[2:])
    visual = kind in ("image", "video")
    if visual and info.units is None:
        info = replace(info, units=Units.of_range(0, 255))
    mean, spread = answers.mean(1), answers.std(1, correction=1 if count > 1 else 0)
    numbers = as_stored(answers.flatten(0, 1), info)
    try:
        out.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(out / "answers.npy", _npy(numbers.reshape(n, count, *numbers.shape[1:])))
        _write_spread(out / "spread.npz", mean, spread, partial.names, info)
        top = max(float(spread.max()), 1e-12)
        if visual:
            write = _write_image if kind == "image" else _write_video(info)
            for i, name in enumerate(partial.names):
                for k in range(count):
                    write(answers[i, k], out / "answers" / f"{name}-{k + 1}")
                write(mean[i], out / "mean" / name)
                write(2 * spread[i] / top - 1, out / "spread" / name)
        for k in range(count) if kind == "vector" else ():
            write_table(as_stored(answers[:, k], info), out / "answers" / f"{k + 1}.csv", info)
        for i, name in enumerate(partial.names) if kind == "signal" else ():
            for k, values in enumerate(as_stored(answers[i], info)):
                write_table(values, out / "answers" / f"{name}-{k + 1}.csv", info)
        page = _overview(answers, mean, spread, top, given, partial.truth, info, title)
        images.save_png(page, out / "overview.png")
    except OSError as error:
        raise BootdiffError(f"{out}: cannot be written ({error.strerror}); choose a different place") from None
    if numbers.dtype != np.uint8:
        return None
    back = torch.from_numpy(numbers).movedim(-1, 1).float() / 127.5 - 1
    return back.reshape(answers.shape)


def _write_spread(path: Path, mean: Tensor, spread: Tensor, names: list[str], info: DataInfo) -> None:
    """Mean and spread (n, *space, C) in original units, float32."""
    file = io.BytesIO()
    zero = info.restore(torch.zeros_like(spread))
    arrays = {"mean": info.restore(mean), "spread": info.restore(spread) - zero}
    arrays = {name: value.movedim(1, -1).contiguous().numpy() for name, value in arrays.items()}  # type: ignore[misc]
    np.savez_compressed(file, names=np.array(names), **arrays)  # type: ignore[arg-type]
    atomic_write_bytes(path, file.getvalue())


def _write_image(x: Tensor, path: Path) -> None:
    images.save_png(images.to_pil(x), path.with_name(path.name + ".png"))


def _write_video(info: DataInfo) -> Callable[[Tensor, Path], None]:
    def write(x: Tensor, path: Path) -> None:
        images.save_gif(x[None], path.with_name(path.name + ".gif"), info.rate, side=max(x.shape[-2:]))

    return write


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _overview(
    answers: Tensor,
    mean: Tensor,
    spread: Tensor,
    top: float,
    given: Observation,
    truth: Tensor | None,
    info: DataInfo,
    title: str,
) -> Any:
    first = given.rows(torch.arange(min(_SHOWN, len(given))))
    n = len(first)
    visual = kind_of(answers.shape[2:]) in ("image", "video")
    sheets = {"given": first.lift(first.y), "mean": mean[:n]}
    sheets |= {"spread": 2 * spread[:n] / top - 1 if visual else spread[:n]}
    sheets |= {f"answer {k + 1}": answers[:n, k] for k in range(min(4, answers.shape[1]))}
    if truth is not None:
        sheets["truth"] = truth[:n]
    note = "each file is at the same position in every panel"
    if visual:
        note += f"; white spread: a deviation of {top:.2g} in [-1, 1]"
    return images.panels({name: images.sheet(x, info) for name, x in sheets.items()}, title, note)


def report(
    out: Path,
    answers: Tensor,
    partial: Partial,
    given: Observation,
    view: View,
    written: Tensor | None,
    how: dict[str, Any],
    training: Tensor | None,
    screen: Console,
) -> dict[str, Any]:
    """Measure, print and write report.json; returns its content.

    Args:
        training: full training samples, for the baselines; None where the truth is not known.
        how: the settings of the answers.
    """
    held = agreement(answers, given, written)
    scores = None
    if partial.truth is not None:
        kind = kind_of(given.full)
        peak = 2.0 if kind in ("image", "video") else float(partial.truth.max() - partial.truth.min())
        others = restoration.baselines(given, view, training) if training is not None else {}
        scores = restoration.score(answers, partial.truth, given, others, peak)
        screen.show(*_scores(scores))
    text = f"largest |A x - y|: {held['max']:.2g} of [-1, 1]"
    if held["noise"] is not None:
        text = f"A x - y: {held['noise']:.2f} of the files' own noise, root mean square"
    elif held["written"] is not None:
        text += f", {held['written'] * 127.5:.2g} of 255 levels in the 8-bit files"
    screen.print(text)
    report = how | {
        "view": to_config(view),
        "files": partial.names,
        "agreement": held,
        "scores": scores,
    }
    atomic_write_json(out / "report.json", report)
    return report


def _scores(scores: dict[str, Any]) -> list[Any]:
    table = plain_table("PSNR of the missing part", "estimate", "dB ± s.e.")
    for name, value in scores["psnr"].items():
        table.add_row(restoration.NAMES.get(name, name), f"{value:.2f} ± {scores['psnr_stderr'][name]:.2f}")
    lines: list[Any] = ["", table]
    covered = scores["coverage"]
    if covered is not None:
        lines.append(
            f"The answers' interval covers {100 * covered['share']:.1f} % of the true values (nominal: "
            f"{100 * covered['nominal']:.1f} %)."
        )
    return lines


def _distinct(names: Sequence[str]) -> list[str]:
    """Names as file names, without their endings; equal ones are numbered."""
    # also of a window: reel.mp4[0:8]
    ending = re.compile(r"\.(png|jpe?g|webp|gif|mp4|webm|avi|mov|mkv|wav|npy|csv|tsv|parquet)(?=$|\[)", re.IGNORECASE)
    plain = [re.sub(r"[^\w.-]+", "-", ending.sub("", name)).strip("-") for name in names]
    counts: dict[str, int] = {}
    out = []
    for name in plain:
        counts[name] = counts.get(name, 0) + 1
        out.append(name if counts[name] == 1 else f"{name}-again{counts[name]}")
    return out


def _by(shape: Any) -> str:
    return " x ".join(str(s) for s in shape)

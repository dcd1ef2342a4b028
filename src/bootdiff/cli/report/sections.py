"""The sections of a run's report, each from `RunFacts`: what there is to say, as blocks; none where it is nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bootdiff.cli.console import clock, number
from bootdiff.cli.report import ceilings, svg, tables, words
from bootdiff.cli.report.html import Block, Bullets, Code, Picture, Pictures, Plots, Progress, Table, Text
from bootdiff.cli.report.run_facts import VIEWS, RunFacts
from bootdiff.evaluation import swap

__all__ = [
    "badge", "cost", "curves", "data", "figures", "lead", "over_time", "result", "samples", "stages", "use", "views",
    "who_decides",
]  # fmt: skip

_FULL_PARTS = ("full", "visible", "residual", "unregularized", "distilled", "oracle")
_ROOM = 60_000  # bytes of a preview above which fewer of them are shown


# --- the head ---------------------------------------------------------------------------------------------------------


def badge(facts: RunFacts) -> tuple[str, str]:
    """Where the run stands, in two words, and their look."""
    if facts.finished:
        return ("trained and measured", "good") if facts.metrics else ("trained", "good")
    if not facts.stages:
        return "nothing trained yet", "wait"
    return "in training, or interrupted", "wait"


def lead(facts: RunFacts) -> list[str]:
    """What came of it so far, in a sentence or two."""
    counts = facts.data.get("counts") or {}
    partial = sum(n for name, n in counts.items() if name.startswith("view ") and not name.endswith("(held out)"))
    said = []
    if counts.get("full"):
        said.append(f"Trained on {counts['full']:,} full samples and {partial:,} partial ones.")
    verdict = words.verdict(facts.metrics)
    if verdict:
        return [*said, verdict]
    done = sum(stage.state == "done" for stage in facts.stages)
    if done < len(facts.stages):
        left = facts.seconds_left
        rest = "" if left is None else f", about {clock(left)} of training left"
        said.append(f"{done} of {len(facts.stages)} networks are trained{rest}.")
    return said


def figures(facts: RunFacts) -> list[tuple[str, str]]:
    """A handful of numbers."""
    found = []
    losses, quality = facts.metrics.get("holdout_loss") or {}, facts.metrics.get("samples") or {}
    arms = [arm for arm in ("full_only", "bootdiff", "oracle") if arm in losses]
    found += [(f"loss, {words.arm(arm)}", words.decimal(losses[arm]["mean"], 4)) for arm in arms]
    found += [
        (f"FID, {words.arm(arm)}", f"{quality[arm]['fid']:.3g}") for arm in ("full_only", "bootdiff") if arm in quality
    ]
    spent = sum(stage.seconds for stage in facts.stages)
    if spent:
        found.append(("training time", clock(spent)))
    return found


# --- data and progress ------------------------------------------------------------------------------------------------


def data(facts: RunFacts) -> list[Block]:
    """What the data are: sizes, counts, each view beside a full sample."""
    if not facts.data:
        return [Text("data.json is not there: how many samples there are is not known.", soft=True)]
    shape, counts = list(facts.data["shape"]), dict(facts.data["counts"])
    blocks: list[Block] = [Text(words.samples_are(shape, facts.data.get("classes")))]
    rows = []
    for name, n in counts.items():
        if not name.endswith(" (held out)"):
            held = counts.get(f"{name} (held out)")
            rows.append((words.dataset(name), f"{n:,}", "" if held is None else f"{held:,}"))
    blocks.append(Table("Samples", ("data", "samples", "held out to choose with"), rows))
    if (facts.path / VIEWS).is_file():
        alt = "Full samples, each view of them, and the view's own files: the last two should look alike"
        blocks.append(Pictures([Picture(facts.path / VIEWS, alt, width=1600)], "below"))
    if "test" not in counts:
        blocks.append(Text(
            "There is no test set: results are measured on the held-out samples, which also chose snapshots and "
            "weights, and are a little optimistic.", soft=True,
        ))  # fmt: skip
    if (facts.path / "problems.json").is_file():
        blocks.append(Text("Some files could not be used; problems.json in the run's folder lists them.", soft=True))
    return blocks


def stages(facts: RunFacts) -> list[Block]:
    """Networks trained, in training and to come."""
    if not facts.stages:
        return [Text("No network has been trained yet.")]
    done, of = sum(stage.state == "done" for stage in facts.stages), len(facts.stages)
    text, left = f"{done} of {of} networks are trained", facts.seconds_left
    if done < of:
        text += "." if left is None else f"; about {clock(left)} of training left."
    rows = [
        (
            stage.name,
            stage.state,
            f"{stage.step:,}" + ("" if stage.steps is None else f" / {stage.steps:,}"),
            clock(stage.seconds) if stage.seconds else "",
            "" if stage.best is None else f"{stage.best:.4f}",
        )
        for stage in facts.stages
    ]
    table = Table(
        "Networks; held-out losses are means over the noise levels, 1 = knowing mean and spread only",
        ("network", "state", "steps", "time", "best held-out loss"), rows, folded=done == of,
    )  # fmt: skip
    return [Progress(done, of, text.rstrip(".") + "."), table]


# --- results ----------------------------------------------------------------------------------------------------------


def result(facts: RunFacts) -> list[Block]:
    """Losses of the arms, by noise level and against full-only; FID, KID, copies where they were measured."""
    losses = facts.metrics.get("holdout_loss") or {}
    if not losses:
        return _so_far(facts)
    quality = facts.metrics.get("samples") or {}
    rows = []
    for arm, entry in losses.items():
        against = (entry.get("versus") or {}).get("full_only")
        row = [words.arm(arm), tables.pm(entry), "" if against is None else tables.pm(against, sign=True),
               tables.pm(entry.get("sample_weighted"))]  # fmt: skip
        if quality:
            q = quality.get(arm)
            row += ["-"] * 4 if q is None else [
                f"{q['fid']:.3g}", tables.pm(q["kid"], 1, scale=1000), f"{100 * q['memorization']['share']:.1f} %",
                tables.detail(q),
            ]  # fmt: skip
        rows.append(row)
    head = ["arm", "loss ± s.e.", "against full only", "sample-weighted loss"] + (
        ["FID", "KID x 1000 ± s.e.", "copies", "detail"] if quality else []
    )
    on = f"{facts.metrics.get('count')} samples, {facts.metrics.get('evaluated_on')}"
    blocks: list[Block] = [
        Table(f"Denoising loss, mean over the noise levels; measured on {on}", head, rows, "bootdiff")
    ]
    blocks += _by_level(losses)
    note = (
        "Loss: 1 = knowing mean and spread only; lower is better. Sample-weighted: noise levels count as much as "
        "samples need them."
    )
    if quality:
        first = next(iter(quality.values()))
        note += (
            f" FID and KID: {first['count']} drawn samples against {first['reference_count']} real ones, by the "
            f"features {first['features']}; comparable only for the same features and counts. Copies: samples much "
            "closer to one training sample than to any other. Detail: power at wavelengths of 2 to 16 pixels, in per "
            "cent of real ones'."
        )
    else:
        note += " FID, KID and copies were not measured: bootdiff evaluate RUN measures them."
    lost = facts.metrics.get("swap") or {}
    where = [Bullets([swap.sentence(arm, found) for arm, found in lost.items()])] if lost else []
    return [*blocks, *where, Text(note, soft=True)]


def _by_level(losses: Mapping[str, Any]) -> list[Block]:
    against = losses.get("full_only")
    plots = []
    order = sorted(losses, key=lambda arm: arm != "bootdiff")  # its colour is the first
    by_arm = {arm: {float(s): e["mean"] for s, e in losses[arm]["per_level"].items()} for arm in order}
    if against is not None and len(losses) > 1:
        below = by_arm["full_only"]
        shown = {arm: found for arm, found in by_arm.items() if max(v / below[s] for s, v in found.items()) < 1.6}
        ratio = {words.arm(arm): [(s, v / below[s]) for s, v in found.items()] for arm, found in shown.items()}
        bars = {}
        for arm in shown:
            paired = ((losses[arm].get("versus") or {}).get("full_only") or {}).get("per_level") or {}
            errors = {float(s): e.get("stderr") for s, e in paired.items()}
            if errors and None not in errors.values():
                bars[words.arm(arm)] = [error / below[s] for s, error in errors.items()]
        plot = svg.lines(
            ratio, "Loss per noise level, divided by that of full-only training", "noise level sigma",
            "loss / that of full only", log=True, at=1.0, errors=bars, strong="bootdiff",
        )  # fmt: skip
        left = [words.arm(arm) for arm in by_arm if arm not in shown]
        caption = "Below 1 is better than training on the full samples alone; bars are standard errors."
        caption += f" Beyond the plot: {', '.join(left)}." if left else ""
        plots.append((plot, svg.legend(list(ratio), "bootdiff"), caption))
    plain = {words.arm(arm): sorted(found.items()) for arm, found in by_arm.items()}
    plot = svg.lines(plain, "Loss per noise level", "noise level sigma", "denoising loss", log=True, strong="bootdiff")
    plots.append((plot, svg.legend(list(plain), "bootdiff"), "The denoising losses themselves."))
    return [Plots(plots)]


def _so_far(facts: RunFacts) -> list[Block]:
    """Held-out losses of the networks, before anything is measured."""
    by_name = {s.name: sorted(s.best_at.items()) for s in facts.stages if s.part in _FULL_PARTS and s.best_at}
    if not by_name:
        return []
    plot = svg.lines(
        by_name, "Best held-out loss of each network per noise level", "noise level sigma", "held-out loss", log=True
    )
    caption = (
        "Best held-out loss of each network of the full samples so far. They are weighed against each other in the end."
    )
    note = "Not measured yet on samples that chose nothing"
    note += ": bootdiff evaluate RUN does that, and draws samples." if facts.has_recipe else "."
    return [Plots([(plot, svg.legend(list(by_name)), caption)]), Text(note, soft=True)]


def samples(facts: RunFacts) -> list[Block]:
    """Final samples of the arms beside real ones."""
    folder = facts.path / "samples"
    order = ["full_only", "bootdiff", "real", "oracle", "distilled", "views_only", "unregularized"]
    found = []
    for name in order:
        path = folder / f"{name}.png"
        if path.is_file():
            what = "real samples, not trained on" if name == "real" else f"samples of {words.arm(name)}"
            found.append(Picture(path, what[0].upper() + what[1:], what))
    if not found:
        for arm in facts.arms:
            drawn, what = sorted(folder.glob(f"{arm}-seed*.png")), f"samples of {words.arm(arm)}"
            found += [Picture(path, what[0].upper() + what[1:], what) for path in drawn[:1]]
    return [Pictures(found)] if found else []


def over_time(facts: RunFacts) -> list[Block]:
    """What networks drew while they were trained."""
    blocks: list[Block] = []
    for stage in facts.stages:
        chosen = _some(list(stage.pictures.items()))
        pictures = [
            Picture(path, f"Samples of {stage.name} after {step} steps", f"{step:,} steps", 320)
            for step, path in chosen
        ]
        if pictures:
            blocks.append(Pictures(pictures, "strip", stage.name))
    if not blocks:
        return []
    text = (
        "Each strip is one network by itself, drawing from the same noise after more and more steps; the finished "
        "model weighs several of them at each noise level."
    )
    return [Text(text), *blocks]


def _some(pictures: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """At most ten, of large ones five; the last among them."""
    if not pictures:
        return []
    most = 10 if sum(path.stat().st_size for _, path in pictures) <= _ROOM * len(pictures) else 5
    if len(pictures) <= most:
        return pictures
    return [pictures[round(k * (len(pictures) - 1) / (most - 1))] for k in range(most)]


# --- why --------------------------------------------------------------------------------------------------------------


def who_decides(facts: RunFacts) -> list[Block]:
    """Gains of the views and weights of the stack, in sentences and figures."""
    blocks: list[Block] = []
    stack, gains = facts.weights.get("residual-stack"), facts.weights.get("gains")
    plots = []
    if stack is not None:
        shares = words.shares(stack)
        blocks.append(Bullets(words.deciding(shares, stack["levels"], gains)))
        plot = svg.columns(
            shares, stack["levels"], "Share of each part at each noise level", "noise level sigma", "share"
        )
        plots.append(
            (plot, svg.legend(list(shares), areas=True), "What the finished model is made of at each noise level.")
        )
    if gains is not None:
        levels = gains["levels"]
        blocks.append(Bullets(words.gains(gains)))
        curves = {
            name: [(s, row[k]) for s, row in zip(levels, gains["values"])] for k, name in enumerate(gains["names"])
        }
        plot = svg.lines(curves, "Gain of each view per noise level", "noise level sigma", "gain", log=True, at=0.0)
        caption = "Gains: how much of a view's evidence is taken over. 1: all of it; 0: none; views that overlap share."
        plots.append((plot, svg.legend(list(curves)), caption))
    return [*blocks, Plots(plots)] if plots else []


def views(facts: RunFacts) -> list[Block]:
    """What views are worth, forecast and measured, and why some were left out."""
    said = [f"{text}." for text in facts.left_out.values()]
    blocks: list[Block] = [Bullets(said)] if said else []
    told = facts.plan.get("words")
    if told:
        blocks += [Text("Forecast before training (bootdiff plan):"), Bullets([str(text) for text in told.values()])]
    measured = facts.metrics.get("ceilings")
    if measured:
        blocks += [Text("Measured (bootdiff evaluate --ceilings):"), Bullets(ceilings.sentences(measured))]
    if not facts.left_out and facts.weights.get("gains"):
        blocks.insert(0, Text("No view was left out."))
    if blocks and facts.has_recipe and not (told or measured):
        how = "bootdiff plan RECIPE forecasts what each view is worth, bootdiff evaluate RUN --ceilings measures it."
        blocks.append(Text(how, soft=True))
    return blocks


def curves(facts: RunFacts) -> list[Block]:
    """Held-out losses against steps."""
    kinds = {"of the full samples": _FULL_PARTS, "of the views": ("view",)}
    plots = []
    for what, parts in kinds.items():
        shown: dict[str, Sequence[tuple[float, float]]] = {
            stage.name: [(float(step), loss) for step, loss in stage.heldout]
            for stage in facts.stages if stage.part in parts and len(stage.heldout) > 1
        }  # fmt: skip
        if shown:
            title = f"Held-out loss of the networks {what} against steps"
            plot = svg.lines(shown, title, "step", "held-out loss")
            plots.append(
                (plot, svg.legend(list(shown)), f"{title}; each noise level uses the weights that were best there.")
            )
    return [Plots(plots)] if plots else []


def cost(facts: RunFacts) -> list[Block]:
    """FLOPs, seconds and memory, of arms and of networks."""
    blocks: list[Block] = []
    arms = (facts.metrics.get("ledger") or {}).get("arms") or {}
    if arms:
        rows: list[Sequence[str]] = []
        for arm, t in arms.items():
            ratio = (t.get("ratio") or {}).get("flops")
            rows.append((
                words.arm(arm), str(len(t["stages"])), number(t["parameters"]), number(t["flops"]),
                "" if ratio is None else f"{ratio:.1f}", clock(t["seconds"]), f"{number(t['peak_memory'])}B",
            ))  # fmt: skip
        head = ("arm", "networks", "parameters", "FLOPs", "x full only", "time", "memory")
        blocks.append(Table("Training each arm, with all it needs", head, rows, "bootdiff"))
    if facts.ledger:
        networks = [
            (name, number(s.get("parameters", 0)), f"{s.get('steps', 0):,}", number(s.get("flops", 0)),
             clock(s.get("seconds", 0)), f"{number(s.get('peak_memory', 0))}B")
            for name, s in facts.ledger.items()
        ]  # fmt: skip
        each = ("network", "parameters", "steps", "FLOPs", "time", "memory")
        blocks.append(Table("Each network", each, networks, folded=bool(arms)))
        devices = sorted({str(s["device"]) for s in facts.ledger.values() if s.get("device")})
        if devices:
            blocks.append(Text(f"Trained on {', '.join(devices)}.", soft=True))
    return blocks


def use(facts: RunFacts) -> list[Block]:
    """Commands and three lines of Python."""
    folder = facts.path.name
    if not facts.arms:
        return [Text("There is no finished model yet: the command that began the training goes on with it.")]
    arm = "bootdiff" if "bootdiff" in facts.arms else facts.arms[0]
    only = "" if arm == "bootdiff" or len(facts.arms) == 1 else f" --arm {arm}"
    commands = f"bootdiff sample {folder}{only} -n 64" + (f"\nbootdiff evaluate {folder}" if facts.has_recipe else "")
    own = "" if facts.has_recipe else "  # networks and views of your own: classes=[...]"
    python = f'import bootdiff as bd\nmodel = bd.load("{folder}/{arm}"){own}\nimages = bd.sample(model, 64, seed=0)'
    known = ", ".join(words.arm(arm) for arm in facts.arms)
    return [
        Text(f"Beside the run's folder, {folder} (trained arms: {known}):"), Code(commands), Text("or in Python:"),
        Code(python),
    ]  # fmt: skip

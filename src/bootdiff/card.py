"""The model card of a saved pipeline: README.md, made of the model's own description and of the run that trained it.

Of the model: what it draws, the views that it is composed of, its parameters.  Of the run, where its folder is known:
how much data there was (data.json), what each training cost (ledger.json, or the stages' own records) and the losses
(metrics.json).  No path and no command of the run goes into it; what is not known is left out.  The licence is the
user's to choose: the card says where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bootdiff import __version__
from bootdiff.denoise import Denoiser
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.sampling import classes_of
from bootdiff.serialization import CLASSES
from bootdiff.training.files import read_record
from bootdiff.training.run import Run

__all__ = ["model_card"]

_KINDS = {1: "vectors", 2: "signals", 3: "images", 4: "videos"}
_LICENSE = "# license: yours to choose, an identifier of the Hub such as apache-2.0"


def model_card(
    denoiser: Denoiser, spec: Any, *, run: Path | None = None, arm: str | None = None, license: str | None = None,
    place: str = ".",
) -> str:  # fmt: skip
    """The text of README.md.

    Args:
        denoiser: the model.
        spec: what its model.json says, which names the classes it is made of.
        run: the folder of the run that trained it, or None.
        arm: its name in the run.
        license: an identifier of the Hub, such as "apache-2.0"; None: left to be filled in.
        place: where the program in it loads the model from.

    Raises:
        BootdiffError: files of the run that cannot be read.
    """
    kind = _KINDS.get(len(denoiser.shape), "samples")
    parts = [_header(kind, license), f"# {kind.capitalize()} drawn by a bootdiff model", _model(denoiser, kind)]
    parts += [_program(denoiser, sorted(_own_classes(spec)), place)]
    if run is not None:
        parts += [_data(run), _training(run), _losses(run, arm or "bootdiff")]
    parts += [_rights(license), _METHOD]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(kind: str, license: str | None) -> str:
    """The metadata that the Hub reads."""
    lines = ["library_name: bootdiff", "tags:", "- bootdiff", "- diffusers", "- denoising-diffusion"]
    if kind == "images":
        lines.append("pipeline_tag: unconditional-image-generation")
    return "\n".join(["---", *lines, _LICENSE if license is None else f"license: {license}", "---"])


def _model(denoiser: Denoiser, kind: str) -> str:
    shape = " x ".join(str(n) for n in denoiser.shape)
    count = sum({id(p): p.numel() for p in denoiser.parameters()}.values())
    text = f"It draws {kind} of shape {shape} (channels first) and has {count:,} parameters."
    classes = classes_of(denoiser)
    text += f" It knows {classes} classes." if classes else ""
    found = next((m for m in denoiser.modules() if isinstance(m, CompositeDenoiser) and len(m.views)), None)
    if found is None:
        return text
    rows = [f"- `{name}`: {_short(view)}" for name, view in found.views.items()]
    return "\n".join([f"{text} It was composed of models of these views of the full {kind}:", "", *rows])


def _short(view: Any, most: int = 160) -> str:
    text = " ".join(repr(view).split())
    return f"`{text}`" if len(text) <= most else f"`{type(view).__name__}`"


def _program(denoiser: Denoiser, own: list[str], place: str) -> str:
    known = f", classes=[{', '.join(own)}]" if own else ""
    label = ", class_labels=0" if classes_of(denoiser) else ""
    lines = [
        "import torch",
        "from bootdiff import BootdiffPipeline",
        *([f"from your_package import {', '.join(own)}  # the model is made of them"] if own else []),
        "",
        '# "." is this folder; or the name of this repository, "owner/name"',
        f'pipe = BootdiffPipeline.from_pretrained("{place}"{known})',
        f"images = pipe(batch_size=4, generator=torch.Generator().manual_seed(0){label}).images",
    ]
    lines = [line for line in lines if place == "." or not line.startswith("#")]
    said = f"With `pip install bootdiff` (saved by {__version__}):"
    return "\n".join(["## Use", "", said, "", "```python", *lines, "```"])


def _own_classes(spec: Any) -> Iterator[str]:
    """The classes in a model's description that are not bootdiff's."""
    values = spec.values() if isinstance(spec, Mapping) else spec if isinstance(spec, list) else ()
    if isinstance(spec, Mapping) and {"class", "args"} == set(spec) and spec["class"] not in CLASSES:
        yield str(spec["class"])
    for value in values:
        yield from _own_classes(value)


def _data(run: Path) -> str:
    if not (run / "data.json").is_file():
        return ""
    counts = _read(run, "data.json").get("counts", {})
    if not counts:
        return ""
    return "\n".join(
        ["## Data", "", "| samples | number |", "|---|---|", *(f"| {k} | {n:,} |" for k, n in counts.items())]
    )


def _training(run: Path) -> str:
    """What each training of the run cost; those of all its arms, as a run trains a network once for all of them."""
    rows = [(stage, entry) for stage, entry in _ledger(run).items() if entry.get("steps")]
    if not rows:
        return ""
    table = [
        f"| {stage} | {entry.get('parameters', 0):,} | {entry['steps']:,} | {entry.get('images', 0):,} | "
        f"{entry.get('flops', 0):.2e} | {entry.get('seconds', 0):,.0f} | {entry.get('device', '')} |"
        for stage, entry in rows
    ]
    head = [
        "| network | parameters | steps | samples seen | FLOPs | seconds | device |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(["## Training\n\nThe trainings of the run:", "", *head, *table])


def _ledger(run: Path) -> dict[str, Any]:
    if (run / "ledger.json").is_file():
        return _read(run, "ledger.json")
    records = {path.parent.name: read_record(path) for path in sorted((run / "stages").glob("*/done.json"))}
    return {name: said.get("ledger", {}) for name, said in records.items() if isinstance(said, dict)}


def _read(run: Path, name: str) -> dict[str, Any]:
    remedy = "restore it from a copy, or delete it: the card does without"
    found: dict[str, Any] = Run.read(run).read_json(name, dict[str, Any], remedy)
    return found


def _losses(run: Path, arm: str) -> str:
    if not (run / "metrics.json").is_file():
        return ""
    said = _read(run, "metrics.json")
    losses = said.get("holdout_loss") or {}
    if arm not in losses:
        return ""
    rows = [
        f"| {name.replace('_', ' ')} | {entry['mean']:.4f} | {entry['stderr']:.4f} |"
        for name, entry in losses.items()
        if entry.get("mean") is not None and entry.get("stderr") is not None
    ]
    what = (
        f"## Loss\n\nThe denoising loss on {said.get('count')} samples ({said.get('evaluated_on')}), the mean over "
        f"noise levels {', '.join(f'{level:g}' for level in said.get('levels', []))}; 1 is that of the isotropic "
        f"Gaussian. This model is `{arm.replace('_', ' ')}`."
    )
    return "\n".join([what, "", "| model | loss | standard error |", "|---|---|---|", *rows])


def _rights(license: str | None) -> str:
    if license is not None:
        return f"## Licence\n\n{license}"
    return (
        "## Licence\n\nNot chosen yet. Write `license:` into the first lines of this file, and here what the licence "
        "of the data allows."
    )


_METHOD = (
    "## Method\n\nX. Ma: Bootstrapping Diffusion: Diffusion Model Training Leveraging Partial and Corrupted Data, "
    "2025, arXiv 2505.11825."
)

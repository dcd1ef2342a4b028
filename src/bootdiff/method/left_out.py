"""Why a view has no part in the composite, in a sentence.

A view is left out where screening or its gains give it weight 0 at every noise level: there it adds nothing to what the
full samples teach. That may be so because there is nothing new in it, or because its own networks have not yet learned
it. With h(t) a network's mean held-out loss over the noise levels after t of T steps, it is *still improving* where the
last evaluation is the best one and the last quarter of the steps brought something:

    h(T) = min h,     h(3 T / 4) - h(T) > 0.005 h(T).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from bootdiff.training.run import Run

__all__ = ["FILE", "recorded", "sentence", "still_improving"]

FILE = "left_out.json"
"""In the stage of the screening: {view: sentence}."""

_FELL = 0.005  # share of the loss over the last quarter of the steps, below which a training counts as finished


@with_config(ConfigDict(strict=True, extra="forbid"))
class _Record(TypedDict):
    of: Any
    result: dict[str, str]


def still_improving(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Share of the held-out loss by which it fell over the last quarter of the steps; None where the training was
    finished, or has no two evaluations to tell from.

    Args:
        rows: a stage's rows of metrics.jsonl; those with "heldout", {level: loss}, count.

    >>> rows = [{"step": t, "heldout": {"0.1": loss}} for t, loss in ((60, 0.6), (80, 0.5), (100, 0.4))]
    >>> round(still_improving(rows), 3), still_improving(rows + [{"step": 120, "heldout": {"0.1": 0.45}}])
    (0.333, None)
    """
    losses = {}
    for row in rows:
        values = [v for v in (row.get("heldout") or {}).values() if v is not None]
        if values:
            losses[int(row["step"])] = sum(values) / len(values)
    last = max(losses, default=0)
    before = [step for step in losses if step <= 0.75 * last]
    if not before or losses[last] > min(losses.values()):
        return None
    earlier = losses[max(before)]
    return (earlier - losses[last]) / earlier if earlier - losses[last] > _FELL * losses[last] else None


def sentence(name: str, screened: bool, networks: Mapping[str, float]) -> str:
    """The sentence for one view.

    Args:
        screened: whether screening left it out; else its gains are 0.
        networks: those of its own that were still improving: `still_improving` of each, by the names of their stages.

    >>> sentence("clips", True, {})
    'clips: left out, it adds nothing to what the full samples teach'
    """
    what = "it adds nothing to what the full samples teach"
    if not screened:
        what = "its gains are 0: beside the other views it explains the full samples no better at any noise level"
    if not networks:
        return f"{name}: left out, {what}"
    fell = " and ".join(f"{stage} by {100 * share:.1f} %" for stage, share in networks.items())
    return (
        f"{name}: left out, {what} yet. It is undertrained: the held-out loss was best at the last step and still fell "
        f"over the last quarter of the steps ({fell}); train it longer (more `steps`) before giving it up"
    )


def recorded(run: Run) -> dict[str, str]:
    """The sentences of a run, {view: sentence}; none where no view was left out, or none was screened."""
    if not (run.stages / "screening" / FILE).is_file():
        return {}
    said = run.stage("screening").read(FILE, _Record)["result"]
    return dict(said)

"""What the full samples alone teach about a view: a denoiser of the view, learned from them, seen through it.

A view's law as its N files teach it, against the law as the n full samples teach it, is what the view can bring: with
L_y[k](gamma) = E|y - d_k(y + sigma noise)|^2 of a denoiser of y = A x0 that was learned from k samples,

    KL(p(y) || q_n(y)) - KL(p(y) || q_N(y)) = 1/2 int (L_y[n] - L_y[N]) d gamma

nats (Guo, Shamai, Verdu 2005; Verdu 2010); by the chain rule also those that a model of x0 saves whose law of y is
changed from q_n to q_N while its law of x0 given y stays. d_N is the view's denoiser of the run (`Bootstrap.view`); d_n
is made here, by the same networks in the same way. Full-only's denoiser D of x0 cannot stand in for d_n: A D(x) is an
estimate of y from all of x, not from A x alone, and |A x0 - A D(x)|^2 belongs to the law of y given the rest of x.
"""

from __future__ import annotations

from dataclasses import replace

from bootdiff.data import Dataset, Simulated, Subset
from bootdiff.method.left_out import still_improving
from bootdiff.method.problem import ViewData
from bootdiff.method.stack import SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.method.stages import Bootstrap
from bootdiff.method.trainer import Task
from bootdiff.method.training_set import view_training_set
from bootdiff.views import Observed, View

__all__ = ["PREFIX", "learned_from_full", "remarks", "seen_through"]

PREFIX = "ceiling-"
"""What the names of these stages begin with."""

_DRAWS = 16  # windows or masks of each full sample, where the view has many


def seen_through(dataset: Dataset, view: View, seed: int, draws: int = 1) -> Simulated:
    """Full samples as files of a view, without the noise of its files: `draws` of each where it has placements."""
    clean = view.view if isinstance(view, Observed) else view
    many = list(range(len(dataset))) * (1 if clean.is_fixed else draws)
    return Simulated(Subset(dataset, many), clean, seed=seed)


def learned_from_full(stages: Bootstrap, name: str) -> StackedDenoiser:
    """d_n of the view `name` of the full samples: its networks, trained from scratch for at most as many steps as
    full-only's are, on what the full samples show of it; stopped and stacked on the held-out ones. Each network is a
    stage ceiling-NAME-NETWORK of the run.

    Raises:
        ValueError: a view whose networks are not trained on files alone (`ViewData.is_trained`).
    """
    v, problem = stages.problem.views[name], stages.problem
    if not v.is_trained:
        raise ValueError(f"{name}: no networks are trained on its files alone; there is nothing to train again")
    seed = stages.seed(f"{PREFIX}{name}")
    train, held_out = (
        seen_through(source, v.through, seed + k, _DRAWS) for k, source in enumerate((problem.full, problem.held_out))
    )
    seen = ViewData(train.view, train.view, train, held_out)
    data = view_training_set(seen, problem.shape, stages.settings.flip, stages.device)
    how = stages.settings.views[name]
    training = replace(how.training, steps=min(how.training.steps, stages.settings.training["full"].steps))
    none, experts = stages.no_views(data.prior), dict[str, SnapshotsByNoiseLevel]()
    for network, built in how.networks.items():
        task = Task(f"{PREFIX}{name}-{network}", data, none, built, training)
        experts[task.name] = stages.train(task)
    moments = stages.gaussian(f"{PREFIX}{name}", data)
    return stages.stack(f"{PREFIX}{name}", data, none, {**experts, **moments})


def remarks(stages: Bootstrap, name: str) -> list[str]:
    """What is to be said beside a view's ceiling: which of the two denoisers would be better after more steps, and
    that it is one of several windows or masks."""
    found = []
    if not stages.problem.views[name].through.is_fixed:
        found.append("this is of one window or mask of each sample, and several of them together can bring more")
    for prefix, what in (
        (
            f"{PREFIX}{name}",
            "trained on what the full samples show of it were still improving: the ceiling is measured too high",
        ),
        (f"view-{name}", "trained on its files were still improving: more steps would raise the ceiling"),
    ):
        rows = [stages.run.metrics(f"{prefix}-{network}") for network in stages.settings.views[name].networks]
        if any(still_improving(each) is not None for each in rows):
            found.append(f"the networks {what}")
    return found

"""How the method is carried out, as plain settings: gains, residual, distillation, and the networks of each part.

A `MethodSettings` says all that the stages need beside the data (`problem.Problem`).  It is what Python users give in
parts to `bootdiff.fit`, and what is built of YAML for the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from bootdiff.denoise import Denoiser
from bootdiff.nets.network import Network
from bootdiff.noise import LEVELS
from bootdiff.settings import Doc, Ge, Gt, Le, Lt, check
from bootdiff.training.settings import TrainingSettings

__all__ = [
    "PARTS",
    "DistillationSettings",
    "GainSettings",
    "MethodSettings",
    "ResidualSettings",
    "SamplingSettings",
    "ViewSettings",
]

PARTS = ("full", "visible", "residual", "distilled", "oracle")
"""What has networks beside the views: each is trained by its own settings."""


@dataclass(frozen=True)
class GainSettings:
    """How much each view counts at each noise level."""

    mode: Annotated[Literal["fit", "unit"], Doc("fit: ridge regression on full samples; unit: all 1")] = "fit"
    folds: Annotated[int, Ge(2), Le(1000), Doc("folds of the cross-validation")] = 5
    draws: Annotated[int, Ge(1), Le(1000), Doc("noise draws per full sample and level")] = 4
    smooth: Annotated[
        float, Ge(0), Le(100), Doc("width of the smoothing over ln sigma; 0, 1 and 2 of it are tried")
    ] = 0.35
    prune: Annotated[float, Ge(0), Doc("gains that improve by less than this many standard errors become 0")] = 2.0
    screen: Annotated[
        float,
        Ge(0),
        Doc(
            "views that improve full-only training by less than this many standard errors, over all levels together, "
            "are left out"
        ),
    ] = 0.5

    def __post_init__(self) -> None:
        check(self)

    @property
    def widths(self) -> tuple[float, ...]:
        """The widths of the smoothing that are tried."""
        return (0.0, self.smooth, 2 * self.smooth) if self.smooth else (0.0,)


@dataclass(frozen=True)
class ResidualSettings:
    """What is learned on the full samples beyond the views, and how it is regularized."""

    energy: Annotated[float, Ge(0), Doc("weight of the residual's energy in the loss (shrinks to the views)")] = 0.0
    uses_views: Annotated[bool, Doc("its networks take the views' estimates as input beside x")] = True
    start: Annotated[
        Literal["auto", "best", "full", "views"],
        Doc(
            "best: its networks start at full-only's or a view's, whichever wins a short race, and learn to use the "
            "views; full: at full-only's last weights; views: at zero, on top of the views; auto: best, unless energy, "
            "uses_views or full_experts say otherwise"
        ),
    ] = "auto"
    full_experts: Annotated[bool, Doc("stack denoisers trained on the full samples alone, too")] = True
    visible_experts: Annotated[
        bool,
        Doc("stack denoisers trained on all visible pixels, of full samples and of views that show pixels, too"),
    ] = True
    visible_share: Annotated[
        float, Gt(0), Lt(1), Doc("share of full samples in what these denoisers are trained on")
    ] = 0.25
    snapshots: Annotated[int, Ge(1), Le(1000), Doc("snapshots per expert offered to the choice per noise level")] = 4
    prune: Annotated[
        float,
        Ge(0),
        Doc(
            "experts that improve a noise level by less than this many standard errors are not evaluated there: 2 "
            "samples faster, at a loss of up to 1 %"
        ),
    ] = 0.0

    def __post_init__(self) -> None:
        check(self)
        if self.start in ("best", "full") and (self.penalties or not self.uses_views):
            raise ValueError(
                f"ResidualSettings.start: {self.start} goes without energy, and with uses_views; or write views"
            )

    @property
    def penalties(self) -> dict[str, float]:
        """The weights of the regularizers in the loss that are not 0, as arguments of `ResidualExpert.loss_at`."""
        return {name: weight for name in ("energy",) if (weight := getattr(self, name))}

    @property
    def warm_start(self) -> bool:
        """Whether training starts at networks that are there already, for which full-only's are needed.

        >>> ResidualSettings().warm_start, ResidualSettings(energy=0.1).warm_start
        (True, False)
        """
        auto = self.uses_views and self.full_experts and not self.penalties
        return self.start in ("best", "full") or (self.start == "auto" and auto)

    @property
    def starts_best(self) -> bool:
        """Whether a race decides which of these networks it starts at."""
        return self.warm_start and self.start != "full"


@dataclass(frozen=True)
class SamplingSettings:
    """How samples are drawn."""

    scheduler: Annotated[Literal["dpm", "heun", "euler"], Doc("solver")] = "dpm"
    steps: Annotated[int, Ge(2), Le(10_000), Doc("noise levels visited")] = 40
    sigma_min: Annotated[float, Ge(1e-6), Doc("last noise level")] = 0.02
    sigma_max: Annotated[float, Gt(0), Le(1e6), Doc("first noise level")] = 80.0
    noise_shift: Annotated[
        Literal["auto"] | float,
        Gt(-1),
        Lt(1),
        Doc(
            "share by which the noise is understated to the model, for more detail; auto: measured at the end of its "
            "training, 0 where samples have the detail of the full ones"
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        check(self)
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"SamplingSettings.sigma_min must be below sigma_max ({self.sigma_max:g}), got {self.sigma_min:g}"
            )


@dataclass(frozen=True)
class DistillationSettings:
    """How the arm `distilled` is made: bootdiff's model in as few networks as full-only has.

    samples: drawn from bootdiff's model, to learn on beside the full samples.  networks: by name; None: full-only's.
    """

    samples: Annotated[
        int, Ge(1), Le(10**7), Doc("drawn from bootdiff's model, to learn on beside the full samples")
    ] = 1000
    networks: Mapping[str, Network] | None = None


@dataclass(frozen=True)
class ViewSettings:
    """How a view's denoiser is made.

    networks: by name, stacked.  training: of each of them.  start: "best": at full-only's networks, those of all
    visible pixels or those of the views before it, where they are alike, whichever wins a short race; "scratch".
    inner: the settings of its own problem, where the view has views of its samples.  pixels: whether the files teach
    the networks of all visible pixels, too: "auto", where the view shows pixels (`visible.shows_pixels`), or "no".
    """

    networks: Mapping[str, Network]
    training: TrainingSettings
    start: Literal["best", "scratch"] = "best"
    inner: MethodSettings | None = None
    pixels: Literal["auto", "no"] = "auto"


@dataclass(frozen=True)
class MethodSettings:
    """All that the stages need beside the data.

    networks: of full-only, visible, residual and oracle, by name.  views: by name.  training: by the parts of `PARTS`.
    init: a model whose networks those of a part ("full", "visible", "residual", "oracle") or of a view start at, by
    its name.
    """

    networks: Mapping[str, Network]
    views: Mapping[str, ViewSettings]
    training: Mapping[str, TrainingSettings]
    levels: tuple[float, ...] = LEVELS
    seed: int = 0
    flip: Literal["none", "horizontal"] = "none"
    gains: GainSettings = field(default_factory=GainSettings)
    residual: ResidualSettings = field(default_factory=ResidualSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    init: Mapping[str, Denoiser] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stacks = {"networks": self.networks} | {f"views[{name!r}]": v.networks for name, v in self.views.items()}
        laws = {f"training[{part!r}].noise": how.noise for part, how in self.training.items()}
        laws |= {f"{at}[{name!r}].noise": n.noise for at, own in stacks.items() for name, n in own.items() if n.noise}
        for at, law in laws.items():
            if not law.reaches(self.levels):
                levels = ", ".join(f"{s:g}" for s in self.levels)
                raise ValueError(
                    f"{at}: ln sigma ~ N({law.mean:g}, {law.std:g}^2) reaches none of the noise levels {levels}, so "
                    "what is trained there would not be used; correct the one or the other"
                )

    @property
    def precision(self) -> str:
        """The mixed precision of all trainings.

        Raises:
            ValueError: they differ.
        """
        trainings = [*self.training.values(), *(view.training for view in self.views.values())]
        found = sorted({how.precision for how in trainings})
        if len(found) > 1:
            raise ValueError(f"training: one precision serves a whole run, got {' and '.join(found)}; give one for all")
        return found[0]

    @property
    def distilled_networks(self) -> Mapping[str, Network]:
        """The networks of the arm `distilled`."""
        return self.distillation.networks or self.networks

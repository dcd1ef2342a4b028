"""The models of the runs, loaded once, and what the page asks of a run."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootdiff.cli.report.metadata import DataInfo
from bootdiff.cli.report.run_facts import RunFacts
from bootdiff.cli.session import classes_of, device_of, load_arm, read_run, saved_arms
from bootdiff.cli.webui.site import Site
from bootdiff.data import kind_of
from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.recipe.blocks import Sampling
from bootdiff.recipe.nesting import walk
from bootdiff.recipe.schema import Recipe
from bootdiff.recipe.trust import trust_imports
from bootdiff.sampling import classes_of as count_classes
from bootdiff.training.device import chosen_device

__all__ = ["Model", "Models", "RunInfo"]

_KEPT = 3  # models that stay in memory


@dataclass(frozen=True)
class RunInfo:
    """What can be chosen of a run. recipe: None of runs from Python."""

    name: str
    path: Path
    arms: list[str]
    classes: list[str]
    shape: tuple[int, ...] | None
    recipe: Recipe | None
    sampling: Sampling
    meaning: DataInfo

    @property
    def kind(self) -> str:
        """image, video, signal or vector."""
        return "image" if self.shape is None else kind_of(self.shape)

    @property
    def views(self) -> list[str]:
        """The views of the recipe, by name."""
        return [] if self.recipe is None else [name for name, _ in walk(self.recipe.views)]


@dataclass(frozen=True)
class Model:
    """A finished model of a run."""

    run: RunInfo
    arm: str
    denoiser: Denoiser
    classes: list[str]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.denoiser.shape)


class Models:
    """The models of a site. Loading is a computation: it stands under the same lock (`work.Desk`)."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._kept: OrderedDict[tuple[Path, str, float], Model] = OrderedDict()

    def info(self, name: str) -> RunInfo:
        """What can be chosen of a run, from its small files.

        Raises:
            BootdiffError: they cannot be read, or the run is not there.
        """
        path = self.site.run(name)
        with trust_imports(self.site.trusted):
            recipe = read_run(path, self.site.device)[1] if (path / "recipe.yaml").is_file() else None
        data = RunFacts.read(path).data if (path / "data.json").is_file() else {}
        shape = data.get("shape")
        try:
            classes, meaning = classes_of(path) or [], DataInfo.of_run(path)
            size = tuple(int(n) for n in shape) if shape else None
        except (KeyError, TypeError, ValueError) as error:
            raise BootdiffError(f"{name}: data.json is damaged ({error}); restore it from a copy") from None
        sampling = Sampling() if recipe is None else recipe.sampling
        return RunInfo(name, path, saved_arms(path), [str(c) for c in classes], size, recipe, sampling, meaning)

    def load(self, name: str, arm: str | None) -> Model:
        """A model of a run, by default bootdiff's or the only one.

        Raises:
            BootdiffError: no such model, or its files are damaged.
        """
        info = self.info(name)
        chosen = arm or ("bootdiff" if "bootdiff" in info.arms else next(iter(info.arms), ""))
        if not info.arms:
            raise BootdiffError(f"{name}: nothing is trained yet; finish its training first")
        if chosen not in info.arms:
            raise BootdiffError(f"{name}: has no trained arm {chosen!r}; it has {', '.join(info.arms)}")
        key = (info.path, chosen, (info.path / chosen / "model.json").stat().st_mtime)
        if key not in self._kept:
            with trust_imports(self.site.trusted):
                if info.recipe is not None:  # its own classes are known once it is read
                    read_run(info.path, self.site.device)
                _, denoiser = load_arm(info.path, chosen, self._device(info))
            count = count_classes(denoiser) or 0
            classes = info.classes[:count] or [str(i) for i in range(count)]
            self._kept[key] = Model(info, chosen, denoiser, classes)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _device(self, info: RunInfo) -> Any:
        if info.recipe is not None:
            return device_of(info.recipe)
        return chosen_device(self.site.device or "cpu")

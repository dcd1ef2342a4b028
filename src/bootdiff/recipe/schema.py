"""The recipe: one run as plain validated data, YAML in.

    full:  {path: photos}                          # a few full samples
    views:
      thumbnails:
        view: {kind: downsample, factor: 2}
        data: {path: thumbnails}
    training: {steps: 4000, residual: {lr: 3e-4}}

Everything else has a default (`reference()` lists all keys). A mistake is reported with its line, the known keys or
values and the nearest one. Relative paths are relative to the recipe's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, model_validator

from bootdiff.data.options import is_path
from bootdiff.errors import BootdiffError
from bootdiff.method.settings import PARTS
from bootdiff.nets.build import BACKBONES
from bootdiff.paths import expanded
from bootdiff.recipe import messages, nesting
from bootdiff.recipe.backbones import SPECS, Backbone, default_backbones
from bootdiff.recipe.blocks import (
    MOST_VIEWS,
    Data,
    Distill,
    Evaluation,
    Full,
    Gains,
    Name,
    Residual,
    Sampling,
    Simulate,
    Training,
    TrainingBlock,
    ViewSpec,
)
from bootdiff.recipe.changes import change
from bootdiff.recipe.data import partial_only
from bootdiff.recipe.mask_pictures import read_mask
from bootdiff.recipe.messages import Block
from bootdiff.recipe.yaml import MOST_CHARACTERS, parse_yaml
from bootdiff.settings import short_repr

__all__ = ["Recipe", "json_schema", "load_recipe", "load_recipe_text", "reference"]

# what changes the speed or the place of a run, not its result
_PLACE = {"name", "device", "threads", "workers", "checkpoint_seconds"}


def _auto_backbones(value: Any) -> Any:
    """`unet: auto` for {kind: unet}."""
    if not isinstance(value, dict):
        return value
    return {k: {"kind": k} if v in ("auto", None) and k in BACKBONES else v for k, v in value.items()}


def _by_name(views: Any, backbones: dict[Any, Any]) -> Any:
    """The blocks of views with `backbone: NAME`, one of the recipe's own backbones, taken for that backbone."""
    if not isinstance(views, dict):
        return views
    found = {}
    for name, view in views.items():
        if isinstance(view, dict):
            own, inner = view.get("backbone"), view.get("views")
            named = {"backbone": backbones[own]} if isinstance(own, str) and own in backbones else {}
            view = {**view, **named, **({} if inner is None else {"views": _by_name(inner, backbones)})}
        found[name] = view
    return found


_WrittenBackbones = Annotated[dict[Name, Backbone | Literal["auto"] | None], Field(min_length=1)]


class Recipe(Block):
    """One run. Build it with `load_recipe` or `load_recipe_text`."""

    name: str = Field("", description="title of the run; by default the recipe's file name")
    seed: int = Field(0, ge=0, description="seed of everything random")
    full: Full = Field(default_factory=Full, description="a few full samples")
    test: Data | None = Field(None, description="full samples for reporting only; never seen in training or selection")
    views: dict[Name, ViewSpec] = Field(
        min_length=1, max_length=MOST_VIEWS, description="the kinds of partial data, by names you choose"
    )
    oracle: Data | None = Field(None, description="all of the data in full, for an oracle to compare with")
    simulate: Simulate | None = Field(None, description="research: cut the views out of a pool of full samples")
    flip: Literal["none", "horizontal"] = Field("none", description="mirror samples at random in training")
    backbones: Annotated[
        dict[Name, Backbone],
        Field(min_length=1, max_length=MOST_VIEWS),
        BeforeValidator(_auto_backbones, json_schema_input_type=_WrittenBackbones),
    ] = Field(
        default_factory=default_backbones,
        description="networks of the residual and full-only experts, by names you choose, each trained apart; left out "
        "for vectors: mlp, linear",
    )
    training: TrainingBlock = Field(default_factory=TrainingBlock, description="how the networks are trained")
    levels: list[Annotated[float, Field(ge=1e-4, le=1e4)]] = Field(
        [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4],
        min_length=1,
        max_length=1000,
        description="noise levels (standard deviations) at which things are fitted and reported",
    )
    residual: Residual = Field(default_factory=Residual, description="what is learned beyond the views")
    gains: Gains = Field(default_factory=Gains, description="how much each view counts")
    init: dict[str, str] = Field(
        default_factory=dict,
        description="`full`, `residual`, `oracle` or a view's name: folder of a trained model of the same form (a run, "
        "a saved model, one of diffusers) to start at",
    )
    distill: Distill = Field(default_factory=Distill, description="how the arm `distilled` is made")
    sampling: Sampling = Field(default_factory=Sampling, description="how samples are drawn")
    evaluate: Evaluation = Field(default_factory=Evaluation, description="how the result is measured")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to compute")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; null: as torch chooses")

    _text: str = PrivateAttr("")
    _folder: Path = PrivateAttr(Path("."))
    _at: str = PrivateAttr("")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        backbones = _auto_backbones(value.get("backbones")) if isinstance(value, dict) else None
        return {**value, "views": _by_name(value.get("views"), backbones)} if isinstance(backbones, dict) else value

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        messages.fail(self._problems())
        return self

    def _problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What is wrong between fields, as pairs (location, text)."""
        for i, (low, high) in enumerate(zip(self.levels, self.levels[1:], strict=False)):
            if low >= high:
                yield ("levels", i + 1), f"must be sorted and different: {high:g} follows {low:g}"
        if self.simulate is None:
            if not self.full.path:
                yield ("full", "path"), "missing, but required: where the full samples are (or use `simulate`)"
            for path, view in nesting.walk(self.views):
                if view.data is None and view.pretrained is None and view.same_as is None:
                    yield nesting.location(path, "data"), "missing, but required: where this view's files are"
                if view.corruption is not None:
                    yield nesting.location(path, "corruption"), "only for simulated views: leave it out"
        else:
            yield from self._simulate_problems(self.simulate)
        yield from self._noise_problems()
        for name, backbone in self.backbones.items():
            yield from _attention_problems(("backbones", name, "attention"), backbone)
        for path, view in nesting.walk(self.views):
            yield from _attention_problems(nesting.location(path, "backbone", "attention"), view.backbone)
        yield from nesting.problems(self.views)
        yield from self._precision_problems()
        for name in self.init:
            problem = self._init_problem(name)
            if problem is not None:
                yield ("init", name), problem
        blocks: dict[tuple[str | int, ...], Data | None] = {("full",): self.full, ("test",): self.test}
        blocks[("oracle",)], blocks[("simulate", "pool")] = self.oracle, self.simulate.pool if self.simulate else None
        for place, block in blocks.items():
            yield from (((*place, key), text) for key, text in (() if block is None else partial_only(block)))

    def _precision_problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        blocks: dict[tuple[str | int, ...], Any] = {
            ("training", part): block for part, block in self.training if isinstance(block, Training)
        }
        blocks |= {nesting.location(path, "training"): view.training for path, view in nesting.walk(self.views)}
        blocks[("distill", "training")] = self.distill.training
        for place, block in blocks.items():
            if "precision" in block.model_fields_set and block.precision != self.training.precision:
                yield (*place, "precision"), "one serves a whole run: write it once, as training.precision"

    def _noise_problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        laws: dict[tuple[str | int, ...], Any] = {("training", "noise"): self.training.noise}
        for part in ("views", *(part for part in PARTS if part != "distilled")):
            block = getattr(self.training, part)
            laws |= {("training", part, "noise"): block.noise} if "noise" in block.model_fields_set else {}
        laws |= {("backbones", name, "noise"): net.noise for name, net in self.backbones.items() if net.noise}
        for place, noise in laws.items():
            if not noise.settings().reaches(self.levels):
                yield (
                    place,
                    "reaches none of `levels`, so what it trains would not be used; correct the one or the other",
                )

    def _init_problem(self, name: str) -> str | None:
        known = ["full", "visible", "residual", "oracle", *self.views]
        if name not in known:
            return f"nothing is trained by this name; known: {', '.join(known)}"
        view = self.views.get(name)
        if view is not None and (view.views or view.pretrained or view.same_as):
            return "this view's own network is not trained, so it cannot start anywhere; leave it out"
        return None

    def _simulate_problems(self, simulate: Simulate) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.full.path:
            yield ("full", "path"), "`simulate` takes the full samples from its pool; leave out one of the two"
        holdout = self.full.holdout
        if isinstance(holdout, int) and holdout >= simulate.full:
            yield ("full", "holdout"), f"must be below simulate.full ({simulate.full}), or none is left; got {holdout}"
        if simulate.test is not None and self.test is not None:
            yield ("simulate", "test"), "there is a `test` block already; leave out one of the two"
        if self.oracle is not None:
            yield ("oracle",), "with `simulate` the oracle has the whole pool; leave this block out"
        needed, pool = simulate.full + (simulate.test or 0), simulate.pool.limit
        if pool is not None and needed >= pool:
            yield ("simulate", "pool", "limit"), f"full and test take {needed} of {pool}: none is left for the views"
        for name, view in self.views.items():
            if view.corruption is not None and view.data is not None:
                yield ("views", name, "corruption"), "only for simulated views, and this one brings its own data"
            elif view.corruption is not None and ([block.kind for block in view.view] != ["identity"] or view.std):
                yield ("views", name, "corruption"), "only with `view: identity` and without std"

    def with_defaults_for(self, shape: Sequence[int]) -> Recipe:
        """The recipe for full samples of this shape: with the backbones of their kind where it names none itself."""
        given = "backbones" in self.model_fields_set or len(shape) > 1
        return self if given else self.model_copy(update={"backbones": default_backbones(len(shape) - 1)})

    @property
    def text(self) -> str:
        """The YAML text the recipe was read from; the canonical one if it was not read."""
        return self._text or self.dump()

    @property
    def folder(self) -> Path:
        """The folder that relative paths are relative to."""
        return self._folder

    def locate(self, path: str) -> Path:
        """The absolute path of `path` as the recipe has it, such as `recipe.full.path`.

        Raises:
            BootdiffError: it begins with the home of a user who is not known.
        """
        return Path(os.path.abspath(self._folder / expanded(path)))

    def training_for(self, stage: str, view: str | None = None) -> Training:
        """The training of one network, overrides merged in; warmup is at most steps.

        Args:
            stage: "views", "full" (full-only experts), "visible" (as "views" where not told otherwise), "residual",
                "distilled" or "oracle" (as "full" where not told otherwise).
            view: name of the view, with "views"; None for what all views share.

        Raises:
            ValueError: another stage, or no such view.
        """
        if stage not in ("views", *PARTS):
            raise ValueError(f"stage must be one of {', '.join(('views', *PARTS))}, got {stage!r}")
        if view is not None and (stage != "views" or view not in self.views):
            raise ValueError(f"no view {view!r} in stage {stage!r}; views: {', '.join(self.views)}")
        base = {name: getattr(self.training, name) for name in Training.model_fields}
        merged = Training.model_construct(**base)
        blocks = {
            "distilled": [self.distill.training],
            "oracle": [self.training.full, self.training.oracle],
            "visible": [self.training.views, self.training.visible],
        }
        for over in blocks[stage] if stage in blocks else [getattr(self.training, stage)]:
            merged = _merge(merged, over)
        if view is not None:
            merged = _merge(merged, self.views[view].training)
        return merged.model_copy(update={"warmup": min(merged.warmup, merged.steps)})

    def backbones_for(self, view: str) -> dict[str, Any]:
        """The networks that a view's denoiser is made of, by name: those of the full samples, or one of its own."""
        own = self.views[view].backbone
        if own is None:
            return dict(self.backbones)
        return {next((name for name, net in self.backbones.items() if net == own), own.label): own}

    def inner(self, view: str) -> Recipe:
        """The recipe of a view that has views of its own: how its denoiser is trained, its samples being the full ones.

        Its full-only experts are trained as the view's networks are, its residual as residuals are; the view's own
        overrides count for both.
        """
        spec, training = self.views[view], self.training
        both = {
            "full": _merge(training.views, spec.training),
            "visible": _merge(training.visible, spec.training),
            "residual": _merge(training.residual, spec.training),
        }
        own = {} if spec.backbone is None else {"backbones": self.backbones_for(view)}
        update = {"views": spec.views or {}, "init": {}, "training": training.model_copy(update=both), **own}
        found = self.model_copy(update=update)
        found._at = f"{self._at}views.{view}."
        return found

    def view_configs(self, view: str) -> list[dict[str, Any]]:
        """The view's blocks from first to last as `{"kind": ..., **fields}`, for `views.from_config` and `compose`.

        `std` is left to the caller. A mask's picture is read here: nested lists of 0 and 1.

        Raises:
            BootdiffError: the mask's picture cannot be read.
        """
        configs = [block.config() for block in self.views[view].view]
        for config in configs:
            if config["kind"] == "mask" and "image" in config:
                config["image"] = read_mask(self.locate(config["image"]), f"{self._at}views.{view}.view.image")
        return configs

    def dump(self, *, absolute: bool = True, place: bool = True) -> str:
        """The whole recipe as canonical YAML, defaults written out; reading it again gives the same recipe.

        Args:
            absolute: write paths absolute, so that the text may be kept elsewhere.
            place: write also what changes the speed or the place of a run but not its result: name, device, threads,
                workers, checkpoint_seconds, preview_every. Without them, texts of two recipes differ where their
                results may.
        """
        plain = self._plain(absolute)
        if not place:
            plain = _result_only(plain)
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that are equal for recipes with the same result.

        Left out: name, device, threads, workers, checkpoint_seconds, preview_every. Masks' pictures count by content.
        """
        plain = _result_only(self._plain(True))
        for _, view in _every(plain["views"]):
            for block in view["view"]:
                if block["kind"] == "mask" and block["image"] and Path(block["image"]).is_file():
                    block["image"] = hashlib.sha256(Path(block["image"]).read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]

    def _plain(self, absolute: bool) -> dict[str, Any]:
        plain = self.model_dump(mode="json")
        for name, default in (("distill", Distill()), ("init", {})):
            if getattr(self, name) == default:
                del plain[name]  # recipes of earlier runs are written without it
        if plain["training"]["warmup"] > plain["training"]["steps"]:
            # A default that nobody wrote, lowered where it is used; written out it would be refused.
            del plain["training"]["warmup"]
        if absolute:
            for _, block, key in _named_paths(plain):
                block[key] = str(self.locate(block[key]))
        return plain

    def paths(self) -> dict[str, Path]:
        """Every file and folder that the recipe names, absolute, by the key that names it."""
        return {where: self.locate(block[key]) for where, block, key in _named_paths(self._plain(False))}


def _merge(base: Any, over: Any) -> Any:
    """`base` with the fields that were given in `over`; blocks inside likewise."""
    update = {}
    for name in over.model_fields_set:
        value = getattr(over, name)
        update[name] = _merge(getattr(base, name), value) if isinstance(value, Block) else value
    return base.model_copy(update=update)


def _result_only(plain: dict[str, Any]) -> dict[str, Any]:
    """`plain` without the keys of _PLACE; views and backbones may bear such names themselves."""

    def strip(training: dict[str, Any]) -> dict[str, Any]:
        return {k: strip(v) if isinstance(v, dict) else v for k, v in training.items() if k not in _PLACE}

    def every(views: dict[str, Any]) -> dict[str, Any]:
        kept = {name: {**view, "training": strip(view["training"])} for name, view in views.items()}
        return {
            name: view | ({"views": every(view["views"])} if "views" in view else {}) for name, view in kept.items()
        }

    kept = {key: value for key, value in plain.items() if key not in _PLACE}
    kept["sampling"] = {key: value for key, value in plain["sampling"].items() if key != "preview_every"}
    if "distill" in kept:
        kept["distill"] = {**kept["distill"], "training": strip(kept["distill"]["training"])}
    return {**kept, "training": strip(plain["training"]), "views": every(plain["views"])}


def _every(views: dict[str, Any], at: str = "views") -> list[tuple[str, dict[str, Any]]]:
    """All views' plain blocks, those inside others too, each with its key."""
    found = []
    for name, view in views.items():
        found += [(f"{at}.{name}", view), *_every(view.get("views", {}), f"{at}.{name}.views")]
    return found


def _named_paths(plain: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Where a plain recipe names files and folders: the whole key, the block it is in, and its key there."""
    blocks = {key: plain[key] for key in ("full", "test", "oracle")}
    blocks["simulate.pool"] = (plain["simulate"] or {}).get("pool")
    for at, view in _every(plain["views"]):
        blocks[f"{at}.data"] = view["data"]
        yield from ((f"{at}.{key}", view, key) for key in ("pretrained", "offsets") if view.get(key))
        masks = (block for block in view["view"] if block["kind"] == "mask" and block["image"])
        yield from ((f"{at}.view.image", block, "image") for block in masks)
    for at, block in blocks.items():
        if block and block["path"] and is_path(block["path"]):
            yield f"{at}.path", block, "path"
    yield from ((f"init.{name}", plain["init"], name) for name in plain.get("init", {}))
    if plain["evaluate"]["features"] not in ("auto", "classifier", "autoencoder"):
        yield "evaluate.features", plain["evaluate"], "features"


def _attention_problems(loc: tuple[str | int, ...], backbone: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if not (isinstance(backbone, SPECS["unet"]) and isinstance(backbone.channels, list)):
        return
    last = len(backbone.channels) - 1
    if isinstance(backbone.attention, list) and max(backbone.attention, default=0) > last:
        yield loc, f"the levels are 0 to {last}, one per entry of channels; got {backbone.attention}"


def reference() -> list[messages.Entry]:
    """Every key of a recipe: dotted name, type, default, description."""
    return messages.reference(Recipe)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a recipe, from which editors complete keys and show what they mean.

    It knows the form. What depends on several keys or on the data is told by `load_recipe`.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema(mode="validation")}


def load_recipe(path: str | os.PathLike[str], changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file.

    Args:
        path: the file.
        changes: made to it before it is validated, each KEY=VALUE (`changes`).

    Raises:
        BootdiffError: no such file, not UTF-8, not YAML, or mistakes in it: one line each.
    """
    path = Path(path)
    try:
        # More than is understood is not read: the path may be a device.
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except FileNotFoundError:
        raise BootdiffError(f"{path}: no such file; give the path of a recipe, a YAML file") from None
    except UnicodeDecodeError as error:
        raise BootdiffError(f"{path}: not UTF-8 text (byte {error.start}); save the recipe as UTF-8") from None
    except OSError as error:
        raise BootdiffError(f"{path}: cannot be read ({error.strerror}); give the path of a recipe file") from None
    return load_recipe_text(text, path.parent, source=path.name, name=path.stem, changes=changes)


def load_recipe_text(
    text: str,
    folder: str | os.PathLike[str] = ".",
    *,
    source: str = "recipe",
    name: str = "recipe",
    changes: Sequence[str] = (),
) -> Recipe:
    """Read a recipe from YAML text.

    Args:
        text: the YAML text.
        folder: what relative paths are relative to.
        source: what messages call the text.
        name: the recipe's name if it gives none.
        changes: made to it before it is validated, each KEY=VALUE (`changes`).

    Raises:
        BootdiffError: not YAML, or mistakes in it: one line each.
    """
    document = parse_yaml(text, source)
    if document.data is None:
        raise BootdiffError(f"{source}: empty; a recipe needs at least `full` and `views` (or `simulate` and `views`)")
    if not isinstance(document.data, dict):
        kind = "a list" if isinstance(document.data, list) else short_repr(document.data)
        raise BootdiffError(f"{source}: a recipe is a block of keys (as `full:` and `views:`), got {kind}")
    document = change(document, changes)
    try:
        recipe = Recipe.model_validate({"name": name, **document.data})
    except ValidationError as error:
        raise BootdiffError("\n".join(messages.explain(error, Recipe, document))) from None
    recipe._text = "" if changes else text
    recipe._folder = Path(folder).absolute()
    return recipe

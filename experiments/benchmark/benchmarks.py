"""The benchmarks, as data: pool, test set, kinds of views, networks, training, budget.

A benchmark is a family of recipes, one per (views, n full, seed): a pool of full samples is divided at random, n stay
full (a fifth of them held out), the rest is cut into the views, each file into one view only.  n is a share of the
pool, held-out samples included.  The test set is another file, the same for all.

bootdiff's networks are `narrow`; arms made of one network per backbone get `wide` ones, of about as many parameters as
all of bootdiff's with one view, so that at equal FLOPs they train for about as many steps.  Each of them may also try
`narrow` ones for longer (`baselines.base.TRIALS`), and bootdiff a wide local net (`mixed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from bootdiff.errors import BootdiffError
from bootdiff.nets.network import NOISE
from bootdiff.noise import LEVELS
from bootdiff.recipe.schema import Recipe, load_recipe_text

__all__ = ["BENCHMARKS", "NO_VIEWS", "N_FULL", "Benchmark", "benchmark", "square_views"]

N_FULL = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Per cent of the pool that stay full."""

NO_VIEWS = "none"
"""What the results of arms that see no views are filed under."""


def square_views(side: int, thumbnail_net: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Kinds of views of square pictures, by the name of the kind: view name -> its block of the recipe.

    thumbnail_net: the network of full pictures, its "patch" as for them; thumbnails get it with patches of as many
    pixels fewer as they have themselves. By default they share the networks of full pictures as they are.
    """
    half = side // 2

    def thumbnails(factor: int) -> dict[str, Any]:
        block: dict[str, Any] = {"view": {"kind": "downsample", "factor": factor}}
        if thumbnail_net is not None:
            patch = max(1, thumbnail_net["patch"] // factor)
            block["backbone"] = {**thumbnail_net, "patch": patch, "noise": asdict(NOISE[thumbnail_net["kind"]])}
        return {f"thumbnails{factor}": block}

    kinds: dict[str, dict[str, Any]] = {
        "thumbnails2": thumbnails(2),
        "thumbnails4": thumbnails(4),
        "halves": {
            "left": {"view": {"kind": "crop", "size": [side, half], "offset": [0, 0]}},
            "right": {"view": {"kind": "crop", "size": [side, half], "offset": [0, half]}},
        },
        "boxes": {"boxes": {"view": {"kind": "random_mask", "hide": "box", "fraction": 0.25, "count": 2}}},
        "caption": {"caption": {"view": {"kind": "mask", "band": ["bottom", side // 4]}}},
        "noise": {"noise": {"view": {"kind": "identity"}, "std": 0.2}},
        "blur": {"blur": {"view": {"kind": "identity"}, "corruption": {"kind": "blur", "sigma": 0.8}}},
    }
    return kinds | {"three": {**kinds["thumbnails2"], **kinds["boxes"], **kinds["noise"]}}


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    data: the .npz file, in `folder`; pool: how many of its `train` are used; test: how many of its `test`.
    views: by name of the kind.  narrow, wide: backbones, the one that sees whole pictures first.
    training: the recipe's block but for the steps.  flops: what every arm may spend on training.
    """

    name: str
    data: str
    size: tuple[int, int, int]
    pool: int
    test: int
    flops: float
    narrow: Mapping[str, Any]
    wide: Mapping[str, Any]
    training: Mapping[str, Any]
    views: Mapping[str, Mapping[str, Any]]
    flip: str = "none"
    draws: int = 1
    view_holdout: int = 64
    levels: tuple[float, ...] = LEVELS
    device: str = "auto"
    folder: Path = field(default=Path("experiments/data"))

    def count(self, n_full: float) -> int:
        """Samples in full at n_full per cent."""
        return max(5, round(self.pool * n_full / 100))

    def scaled(self, scale: float) -> Benchmark:
        """A rehearsal in small batches, with a share of the FLOPs and of the images (240 and 16 at least)."""
        if scale == 1:
            return self
        pool, test = max(240, round(self.pool * scale)), max(16, round(self.test * scale))
        training = {**self.training, "batch": 4}
        return replace(
            self, flops=self.flops * scale, pool=min(pool, self.pool), test=test, view_holdout=8, training=training
        )

    def recipe(
        self,
        views: str,
        n_full: float,
        seed: int,
        nets: str = "narrow",
        steps: Mapping[str, int] | None = None,
        dropout: float = 0.0,
        start: str = "scratch",
        view_nets: str = "all",
        optimizer: str = "muon",
    ) -> Recipe:
        """The recipe of one run.

        Args:
            views: a name in `views`, or `NO_VIEWS`.
            n_full: per cent of the pool.
            nets: "narrow", "wide", or "mixed", the first one narrow and the others, which see neighbourhoods, wide.
            steps: of bootdiff's parts, "views", "full", "visible", "residual".
            dropout: of the backbones.
            start: where the views' networks start, "scratch" or "best".
            view_nets: what a view's denoiser is made of, "all" backbones or the "first", which sees whole pictures.
            optimizer: of all networks.

        Raises:
            BootdiffError: no such views; the data are not there.
        """
        if views != NO_VIEWS and views not in self.views:
            raise BootdiffError(f"--views {views}: {self.name} has none of this name; known: {', '.join(self.views)}")
        path = (self.folder / self.data).absolute()
        if not path.is_file():
            raise BootdiffError(
                f"{path}: the benchmark's data are not there; make them by "
                f"`python -m experiments.scripts.prepare --data DIR`, or say by --data where they are"
            )
        first = next(iter(self.narrow))
        blocks = {"narrow": self.narrow, "wide": self.wide, "mixed": {**self.wide, first: self.narrow[first]}}[nets]
        # As networks that are stacked divide the levels by default; views' alone keep to them, too.
        backbones = {k: {**net, "dropout": dropout, "noise": asdict(NOISE[net["kind"]])} for k, net in blocks.items()}
        own = {} if view_nets == "all" else {"backbone": first}
        training = {
            **self.training,
            "optimizer": optimizer,
            **{part: {"steps": n} for part, n in (steps or {}).items()},
        }
        # A recipe has at least one view; arms that see none leave it alone.
        kind = self.views[views if views != NO_VIEWS else next(iter(self.views))]
        recipe = {
            "name": f"{self.name}-{views}",
            "seed": seed,
            "simulate": {"pool": {"path": str(path), "key": "train", "limit": self.pool}, "full": self.count(n_full)},
            "full": {"holdout": max(2, round(0.2 * self.count(n_full)))},
            "test": {"path": str(path), "key": "test", "limit": self.test},
            "flip": self.flip,
            "views": {k: {"holdout": self.view_holdout, "start": start, **own, **block} for k, block in kind.items()},
            "backbones": backbones,
            "training": training,
            "levels": list(self.levels),
            "evaluate": {"draws": self.draws, "samples": 0},
            "sampling": {"preview_every": 0},  # seconds count
            "device": self.device,
        }
        return load_recipe_text(
            yaml.safe_dump(recipe, sort_keys=False), source=f"benchmark {self.name}", name=self.name
        )


_CPU = {"batch": 16, "lr": 2e-3, "warmup": 50, "ema": 0.99, "evaluate_every": 80, "checkpoint_seconds": 20.0}

BENCHMARKS: dict[str, Benchmark] = {
    "mnist": Benchmark(
        name="mnist", data="mnist28.npz", size=(1, 28, 28), pool=5000, test=1000, flops=5e12,
        narrow={
            "unet": {"kind": "unet", "channels": [16, 32], "attention": False, "patch": 2},
            "local": {"kind": "local", "width": 32, "depth": 4},
        },
        wide={
            "unet": {"kind": "unet", "channels": [32, 48], "attention": False, "patch": 2},
            "local": {"kind": "local", "width": 48, "depth": 4},
        },
        training=_CPU, views=square_views(28), device="cpu",
    ),
    "cats32": Benchmark(
        name="cats32", data="cats32.npz", size=(3, 32, 32), pool=5600, test=500, flops=3e13,
        narrow={
            "unet": {"kind": "unet", "channels": [32, 64, 64], "attention": False, "patch": 2},
            "local": {"kind": "local", "width": 32, "depth": 5},
        },
        wide={
            "unet": {"kind": "unet", "channels": [56, 112, 112], "attention": False, "patch": 2},
            "local": {"kind": "local", "width": 64, "depth": 5},
        },
        training={**_CPU, "lr": 1e-3, "ema": 0.995, "precision": "bf16", "evaluate_every": 100},
        views=square_views(32), flip="horizontal", device="cpu",
    ),
    "cats64": Benchmark(
        name="cats64", data="cats64.npz", size=(3, 64, 64), pool=5600, test=850, flops=4e17,
        narrow={
            "unet": {"kind": "unet", "channels": [128, 256, 256, 256], "layers": 2, "attention": [2, 3], "patch": 1},
            "local": {"kind": "local", "width": 128, "depth": 9},
        },
        wide={
            "unet": {"kind": "unet", "channels": [224, 448, 448, 448], "layers": 2, "attention": [2, 3], "patch": 1},
            "local": {"kind": "local", "width": 224, "depth": 9},
        },
        training={
            "batch": 128, "lr": 3e-4, "warmup": 500, "ema": 0.999, "evaluate_every": 500, "checkpoint_seconds": 60.0,
            "precision": "bf16", "compile": True,
        },
        views=square_views(64), flip="horizontal", device="auto",
    ),
    # Some minutes of one GPU for each arm: `experiments.scripts.gpu_short`.
    "gpu-short": Benchmark(
        name="gpu-short", data="cats64.npz", size=(3, 64, 64), pool=5600, test=500, flops=1e16,
        narrow={
            "unet": {"kind": "unet", "channels": [64, 128, 128, 128], "layers": 1, "attention": [3], "patch": 2},
            "local": {"kind": "local", "width": 64, "depth": 7},
        },
        wide={
            "unet": {"kind": "unet", "channels": [112, 224, 224, 224], "layers": 1, "attention": [3], "patch": 2},
            "local": {"kind": "local", "width": 112, "depth": 7},
        },
        training={
            "batch": 64, "lr": 5e-4, "warmup": 200, "ema": 0.998, "evaluate_every": 250, "checkpoint_seconds": 3600.0,
            "precision": "bf16",
        },
        views=square_views(64), flip="horizontal", device="auto",
    ),
}  # fmt: skip
"""By name."""

# Small enough for two cores to train for as long as few full samples can bear.
BENCHMARKS["mnist16"] = replace(
    BENCHMARKS["mnist"], name="mnist16", data="mnist16.npz", size=(1, 16, 16), views=square_views(16)
)
BENCHMARKS["cats16"] = replace(
    BENCHMARKS["mnist16"],
    name="cats16",
    data="cats16.npz",
    size=(3, 16, 16),
    pool=5600,
    test=850,
    flops=1e13,
    flip="horizontal",
)
# Hands, chests, heads: a left hand is no right one, so nothing is flipped.  Patches of 4 make the UNet as dear as that
# of cats32; the local net sees every pixel.
_MEDICAL_UNET: dict[str, Any] = {"kind": "unet", "channels": [32, 64, 64], "attention": False, "patch": 4}
BENCHMARKS["medical64"] = replace(
    BENCHMARKS["cats32"],
    name="medical64",
    data="medical64.npz",
    size=(1, 64, 64),
    pool=8000,
    test=500,
    flops=4e13,
    narrow={
        "unet": _MEDICAL_UNET,
        "local": {"kind": "local", "width": 24, "depth": 6},
    },
    wide={
        "unet": {"kind": "unet", "channels": [56, 112, 112], "attention": False, "patch": 4},
        "local": {"kind": "local", "width": 48, "depth": 6},
    },
    views=square_views(64, _MEDICAL_UNET),
    flip="none",
)
# Eight times the budget, for all arms alike: enough steps for few full samples to be memorized, as far as two cores go.
BENCHMARKS["mnist-long"] = replace(BENCHMARKS["mnist"], name="mnist-long", flops=4e13)


def benchmark(name: str) -> Benchmark:
    """A benchmark by its name; BootdiffError: no such one."""
    if name not in BENCHMARKS:
        raise BootdiffError(f"no benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]

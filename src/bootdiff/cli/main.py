"""The command `bootdiff`: one function per verb.

torch is imported inside the verbs, so that `bootdiff --help` answers at once. Exit codes: 0 done, 1 a claim of
`theory` fails, 2 a problem that the user can put right (its message is printed, without a traceback), 130 interrupted
by Ctrl-C.
"""

from __future__ import annotations

import errno
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from bootdiff.cli.masks import masks
from bootdiff.cli.plan import plan
from bootdiff.cli.restore import restore
from bootdiff.errors import BootdiffError

if TYPE_CHECKING:
    from bootdiff.recipe.schema import Recipe

__all__ = ["app", "main"]


class _Verbs(TyperGroup):
    """Turns problems into a message on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        # Read by OpenMP when torch is imported: busy-waiting threads slow a step tenfold beside another busy process.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        try:
            return super().invoke(ctx)
        except BootdiffError as error:
            job = sys.modules.get("bootdiff.training.state")  # without it nothing was trained, and nothing interrupted
            interrupted = job is not None and isinstance(error, job.Interrupted)
            _complain(f"{error}\n{_command()}" if interrupted else str(error))
            raise typer.Exit(130 if interrupted else 2) from None
        except KeyboardInterrupt:
            _complain(f"interrupted. Run the same command again to go on:\n{_command()}")
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno not in _PLACES or error.filename is None:
                raise
            _complain(f"{error.filename}: {error.strerror}; put that right, or choose another place")
            raise typer.Exit(2) from None
        except RuntimeError as error:
            torch = sys.modules.get("torch")
            if torch is None or not isinstance(error, torch.OutOfMemoryError):
                raise
            _complain(f"out of memory ({str(error).splitlines()[0]}); lower training.batch, or `patch` the networks")
            raise typer.Exit(2) from None


# what a wrong path or a full or read-only disk gives
_PLACES = {
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOSPC,
    errno.EROFS,
    errno.EDQUOT,
}


def _complain(text: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return  # the first process says it
    typer.secho("bootdiff: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(text, err=True)


def _command() -> str:
    return shlex.join(["bootdiff", *sys.argv[1:]])


app = typer.Typer(
    cls=_Verbs,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _flowing(text: str) -> str:
    """A docstring as help: paragraphs flow, lines of commands stay as they are."""
    parts = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        f"[cyan]{part}[/cyan]" if part.startswith("bootdiff ") else part.replace("\n", " ") for part in parts
    )


def _verb(function: Callable[..., None]) -> Callable[..., None]:
    short = function.__doc__.split("\n")[0] if function.__doc__ else ""
    return app.command(help=_flowing(function.__doc__ or ""), short_help=short)(function)


_TOP = """
    Train a diffusion model from a few full images and plenty of partial ones: thumbnails, crops, masked, gray or
    noisy copies.

    A YAML file, the recipe, names the full images and each kind of partial ones.

    bootdiff demo                   see it work on handwritten digits
    bootdiff recipe --example       a recipe to start from
    bootdiff masks photos/          find a logo or a watermark to be masked
    bootdiff check mine.yaml        is it right? how long will it take?
    bootdiff plan mine.yaml         what is each view worth?
    bootdiff fit mine.yaml          train
    bootdiff sample runs/mine       draw images
    bootdiff restore runs/mine ...  complete partial files
    bootdiff arms mine.yaml         is it better than the full images alone?

    Every command may be stopped and run again: it goes on where it was.
    """


@app.callback(help=_flowing(_TOP))
def _top() -> None:
    pass


RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.", show_default=False)]
Reuse = Annotated[
    list[Path] | None,
    typer.Option(help="Another run: what was trained there on the same data with the same settings is copied."),
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write logs for TensorBoard into the run.")]
Guidance = Annotated[float, typer.Option(min=0, help="Weight of guidance toward the class; 1: none, 2: sharper.")]
GuidanceInterval = Annotated[
    tuple[float, float] | None, typer.Option(metavar="LOW HIGH", help="Guide at these noise levels only.")
]
SampleCount = Annotated[
    int | None, typer.Option(min=0, help="Samples drawn for FID and KID; 0: none. Default: the recipe's.")
]


@_verb
def demo(
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed: other full images, other weights.")] = 0,
) -> None:
    """See it work: handwritten digits, few in full, the rest as thumbnails and half images.

    Trains every arm, prints the comparison and writes pictures and metrics.json. Takes minutes on two cores; when
    interrupted, the same command goes on.

    bootdiff demo
    bootdiff demo --seed 1 --out runs/demo-1
    """
    from bootdiff.cli.compare import compare
    from bootdiff.cli.console import Console
    from bootdiff.cli.session import open_session

    screen = Console()
    recipe = _seeded(_embedded("digits"), seed)
    with open_session(recipe, out, screen) as session:
        compare(session)
        if session.main:
            _look(screen, out)


@_verb
def check(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: runs/NAME/check.")] = None,
) -> None:
    """Is the recipe right, are the data as they should be, and how long will it take?

    Reads everything, trains nothing. Writes views.png: full images, what each view shows of them, and the view's own
    files, which should look alike. Then the plan: networks, parameters, FLOPs, and the time by a few steps of each.

    bootdiff check mine.yaml
    """
    from bootdiff.cli import costs
    from bootdiff.cli.console import Console
    from bootdiff.cli.report import images
    from bootdiff.cli.session import accelerate, arms_of, report_unusable
    from bootdiff.method.plan import plan as plan_of
    from bootdiff.recipe.build import build_problem, method_settings
    from bootdiff.training.run import atomic_write_json

    loaded, folder = _load(recipe), out or _run_folder(recipe) / "check"
    screen = Console()
    accelerator = accelerate(loaded)
    materials = build_problem(loaded)
    settings = method_settings(loaded, materials.shape)
    folder.mkdir(parents=True, exist_ok=True)
    report_unusable(folder, materials, screen)
    data = costs.describe(materials)
    screen.show(costs.data_table(data))
    doubts = costs.warnings_of(materials, data)
    for doubt in doubts:
        screen.print(f"look: {doubt}", "yellow")
    images.save_png(images.view_rows(materials), folder / "views.png")
    names = arms_of(materials)
    rows = costs.estimate(settings, materials, accelerator, names, screen)
    screen.show(*costs.cost_table(rows, plan_of(settings, materials, ["bootdiff", *names]), names))
    report = {"data": data, "look": doubts, "plan": [vars(row) for row in rows]}
    atomic_write_json(folder / "check.json", report)
    screen.print(f"{recipe} is valid. Look at {folder / 'views.png'}, then: bootdiff fit {recipe}", "bold")


@_verb
def fit(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="The run's directory. Default: runs/NAME of the recipe.")] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="bootdiff, distilled, full_only, views_only, unregularized or oracle; may be repeated."),
    ] = None,
    reuse: Reuse = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes on this machine (one per GPU, say).")] = 1,
    tensorboard: TensorBoard = False,
) -> None:
    """Train a model.

    The run's directory gets the weights, metrics.jsonl, ledger.json (what it cost) and losses.png. The same command
    goes on after an interruption, to the same weights.

    bootdiff fit mine.yaml
    bootdiff fit mine.yaml --arm distilled
    bootdiff fit mine.yaml --arm full_only --out runs/mine
    """
    if processes > 1 and "LOCAL_RANK" not in os.environ:
        from bootdiff.cli.processes import spread

        raise typer.Exit(spread(sys.argv[1:], processes))
    from bootdiff.cli.console import Console
    from bootdiff.cli.report import curves
    from bootdiff.cli.session import arms_of, open_session

    loaded, folder = _load(recipe), out or _run_folder(recipe)
    screen = Console()
    with open_session(loaded, folder, screen, reuse=reuse or (), tensorboard=tensorboard) as session:
        arms = arms_of(session.problem, arm or ["bootdiff"])
        screen.expect([stage.name for stage in session.bootstrap.plan(arms).trainings])
        for name in arms:
            session.train(name)
        if session.main:
            curves.loss_curves(session.run.metrics(), session.run.path / "losses.png")
        screen.print(f"trained: {', '.join(arms)}. Loss curves: {folder / 'losses.png'}")
        screen.print(f"Next: bootdiff sample {folder}    or: bootdiff evaluate {folder}", "bold")


@_verb
def sample(
    run: RunFolder,
    arm: Annotated[str | None, typer.Option(help="Which arm's model. Default: bootdiff, or the only one.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many images.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Image i depends on seed and i alone.")] = 0,
    steps: Annotated[int | None, typer.Option(min=2, help="Noise levels visited. Default: the recipe's.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="dpm, heun or euler. Default: the recipe's.")] = None,
    label: Annotated[str | None, typer.Option(help="Class, by name or number, where classes were trained.")] = None,
    guidance: Guidance = 1.0,
    guidance_interval: GuidanceInterval = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A .png gets a grid, a .npy the array, a folder each image. Default: in RUN/samples."),
    ] = None,
) -> None:
    """Draw images from a trained model.

    bootdiff sample runs/mine
    bootdiff sample runs/mine -n 100 --seed 7 --out pictures/
    bootdiff sample runs/mine --label 3 --guidance 2 --scheduler heun --out threes.png
    """
    from bootdiff.cli.console import Console
    from bootdiff.cli.sample import draw_from_run

    screen = Console()
    guided = (guidance, guidance_interval)
    where = draw_from_run(run, arm, count, seed, steps, scheduler, label, out, screen, *guided)
    screen.print(f"{count} sample(s): {where}", "bold")


@_verb
def evaluate(
    run: RunFolder,
    arm: Annotated[list[str] | None, typer.Option(help="Only these arms; may be given several times.")] = None,
    samples: SampleCount = None,
    features: Annotated[
        str | None,
        typer.Option(help="auto, classifier, autoencoder, or the path of a network. Default: the recipe's."),
    ] = None,
) -> None:
    """Measure the trained arms of a run: denoising loss on images no arm has seen, and figures of its samples.

    Writes metrics.json, table.md and pictures into the run. FID and KID hold for the feature network named beside them
    and for this number of samples only.

    bootdiff evaluate runs/mine
    bootdiff evaluate runs/mine --samples 5000 --features inception.ts
    """
    from bootdiff.cli.compare import assess_run
    from bootdiff.cli.console import Console

    screen = Console()
    assess_run(run, arm or (), samples, features, screen)
    _look(screen, run)


@_verb
def arms(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: runs/NAME of the recipe.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only these arms; may be given several times.")] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, help="May be given several times: a run for each in OUT/seed-S, and one table of all."),
    ] = None,
    reuse: Reuse = None,
    samples: SampleCount = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Is it better? Train the arms of one recipe and print one table.

    full_only: the full images alone. views_only: the partial ones, and gains. unregularized: the residual as it comes.
    bootdiff: all of it. oracle: everything in full, where the recipe has it. Where asked for, distilled: bootdiff in
    as many networks as full_only has.

    bootdiff arms mine.yaml
    bootdiff arms mine.yaml --seed 0 --seed 1 --seed 2 --samples 0
    """
    from bootdiff.cli.compare import compare, compare_seeds
    from bootdiff.cli.console import Console
    from bootdiff.cli.session import open_session

    loaded, folder = _load(recipe), out or _run_folder(recipe)
    screen = Console()
    if seed and len(seed) > 1:
        compare_seeds(loaded, folder, sorted(set(seed)), screen, arm or (), reuse or (), samples, tensorboard)
    else:
        loaded = _seeded(loaded, seed[0]) if seed else loaded
        with open_session(loaded, folder, screen, reuse=reuse or (), tensorboard=tensorboard) as session:
            compare(session, arm or (), samples)
    _look(screen, folder)


@_verb
def recipe(
    example: Annotated[bool, typer.Option("--example", help="Print a recipe to start from instead.")] = False,
    find: Annotated[str, typer.Option(help="Only keys whose name or description holds this.")] = "",
) -> None:
    """Every key of a recipe: type, default, meaning.

    bootdiff recipe
    bootdiff recipe --find noise
    bootdiff recipe --example > mine.yaml
    """
    from bootdiff.recipe.schema import reference

    if example:
        typer.echo(_text("example"), nl=False)
        return
    entries = [e for e in reference() if find.lower() in f"{e.key} {e.description}".lower()]
    if not entries:
        raise BootdiffError(f"--find {find}: no key of a recipe has this in its name or description")
    for entry in entries:
        default = f" [{entry.default}]" if entry.default else ""
        typer.secho(entry.key, bold=True, nl=False)
        typer.echo(f"  {entry.type}{default}\n    {entry.description}")


_verb(restore)
_verb(plan)
_verb(masks)


def _add_experiments() -> None:
    """The commands of the checkout, `theory` and `bench`: only where `experiments` lies beside this very source."""
    root = Path(__file__).parents[3]
    if not (root / "pyproject.toml").is_file() or not (root / "experiments" / "__init__.py").is_file():
        return
    if str(root) not in sys.path:
        sys.path.append(str(root))
    for name, module in (("theory", "experiments.theory.command"), ("bench", "experiments.benchmark.command")):
        _verb(getattr(import_module(module), name))


_add_experiments()


# --- details ---


def _load(path: Path) -> Recipe:
    from bootdiff.recipe.schema import load_recipe

    return load_recipe(path)


def _text(name: str) -> str:
    from importlib.resources import files

    return files("bootdiff.recipe").joinpath("embedded", f"{name}.yaml").read_text(encoding="utf-8")


def _embedded(name: str) -> Recipe:
    from bootdiff.recipe.schema import load_recipe_text

    return load_recipe_text(_text(name), source=f"{name}.yaml", name=name)


def _seeded(recipe: Recipe, seed: int) -> Recipe:
    return recipe.model_copy(update={"seed": seed})


def _run_folder(recipe: Path) -> Path:
    return Path("runs") / recipe.stem


def _look(screen: Any, folder: Path) -> None:
    pictures = f"{folder / 'samples.png'} and {folder / 'levels.png'}"
    screen.print(f"Look at {pictures}; the figures are in {folder / 'metrics.json'}", "bold")


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script."""
    app(arguments, prog_name="bootdiff")

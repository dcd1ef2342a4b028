"""The command `bootdiff`: its verbs, one module each, and what becomes of their errors.

torch is imported inside the verbs, so that `bootdiff --help` answers at once. Exit codes: 0 done, 1 a claim of
`theory` fails, 2 a problem that the user can fix (its message is printed, without a traceback: `failures`), 130
interrupted by Ctrl-C, SIGTERM or SIGHUP.
"""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from bootdiff import __version__
from bootdiff.cli.arms import arms
from bootdiff.cli.check import check
from bootdiff.cli.demo import demo
from bootdiff.cli.evaluate import evaluate
from bootdiff.cli.failures import INTERRUPTED, REFUSED, Stopped, complain, explain, stop_on_signals
from bootdiff.cli.fit import fit
from bootdiff.cli.gallery import gallery
from bootdiff.cli.masks import masks
from bootdiff.cli.new import new
from bootdiff.cli.plan import plan
from bootdiff.cli.recipe import recipe
from bootdiff.cli.report_command import report
from bootdiff.cli.restore import restore
from bootdiff.cli.sample import sample
from bootdiff.cli.stages import stages
from bootdiff.cli.ui import ui
from bootdiff.cli.verify import verify
from bootdiff.errors import BootdiffError

__all__ = ["app", "main"]


_TRUST = "--trust-imports"
_TOGETHER = ("fit", "arms", "demo", "bench")
"""Verbs whose work the processes of a launcher divide. Each would do all of any other verb, into the same files."""


class _Verb(TyperCommand):
    """Refuses empty arguments: an empty shell variable must not stand for the current folder. And a launcher of several
    processes where there is nothing to divide."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if self.name not in _TOGETHER and _processes() > 1:
            raise BootdiffError(
                f"{self.name}: this command works in one process, and a launcher (torchrun, accelerate) started "
                f"{_processes()}; call it without: {shlex.join(['bootdiff', *sys.argv[1:]])}"
            )
        for before, arg in zip(["", *args], args, strict=False):
            if not arg.strip() or (arg.startswith("--") and arg.endswith("=")):
                name = before if before.startswith("-") else arg.rstrip("=").strip() or "an argument"
                raise BootdiffError(f"{name}: empty (an unset variable?); give a value, '.' for the current folder")
        return super().parse_args(ctx, args)


class _Verbs(TyperGroup):
    """Turns errors into a message on stderr and an exit code; takes `--trust-imports` behind the verb, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        here = args[: args.index("--")] if "--" in args else args
        trusting = [_TRUST] if _TRUST in here else []
        return super().parse_args(ctx, [*trusting, *(arg for arg in here if arg != _TRUST), *args[len(here) :]])

    def invoke(self, ctx: Any) -> Any:
        # Read by OpenMP when torch is imported: busy-waiting threads slow a step tenfold beside another busy process.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        with stop_on_signals():
            return self._invoke(ctx)

    def _invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            by = f" ({error})" if isinstance(error, Stopped) else ""
            complain(f"interrupted{by}. Run the same command again to continue:\n{_command()}", everywhere=False)
            raise typer.Exit(INTERRUPTED) from None
        except (BootdiffError, OSError, MemoryError, RuntimeError) as error:
            text = explain(error, ctx.invoked_subcommand)
            if text is None:
                raise
            state = sys.modules.get("bootdiff.training.state")  # not imported: nothing was trained or interrupted
            interrupted = state is not None and isinstance(error, state.Interrupted)
            complain(f"{text}\n{_command()}" if interrupted else text, everywhere=not interrupted)
            raise typer.Exit(INTERRUPTED if interrupted else REFUSED) from None


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _command() -> str:
    command = shlex.join(["bootdiff", *sys.argv[1:]])
    return f"{command}    (through the same launcher, in as many processes)" if _processes() > 1 else command


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _flowing(text: str) -> str:
    """A docstring as help: paragraphs flow, lines of commands stay as they are."""
    parts = inspect.cleandoc(text).split("\n\n")
    commands = ("bootdiff ", "torchrun ")
    return "\n\n".join(
        f"[cyan]{part}[/cyan]" if part.startswith(commands) else part.replace("\n", " ") for part in parts
    )


_TOP = """
    Train a diffusion model from a few full samples and many partial ones: thumbnails, crops, masked, gray or noisy
    images; clips, stills and signals with gaps.

    A YAML file, the recipe, names the full samples and each kind of partial ones. To start:

    bootdiff demo                           see it work on letters of many fonts
    bootdiff new mine.yaml FULL PARTIAL     a recipe for your folders
    bootdiff check mine.yaml                is it right? how long will it take?
    bootdiff fit mine.yaml                  train, into runs/mine
    bootdiff sample runs/mine               draw samples

    Every command can be interrupted; run it again and it continues where it stopped.
    """


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"bootdiff {__version__}")
        raise typer.Exit


@app.callback(help=_flowing(_TOP))
def _top(
    ctx: typer.Context,
    trust: Annotated[
        bool, typer.Option(_TRUST, help="Let recipes run code: networks and views of your own by import path.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    if trust:
        ctx.with_resource(import_module("bootdiff.recipe.trust").trust_imports())


def _add(panel: str, *verbs: Callable[..., None]) -> None:
    for verb in verbs:
        text = inspect.cleandoc(verb.__doc__ or "")
        app.command(cls=_Verb, help=_flowing(text), short_help=text.split("\n")[0], rich_help_panel=panel)(verb)


_add("Start", demo, new, recipe, masks)
_add("Train", check, plan, fit, arms, stages)
_add("Use", report, gallery, sample, restore, evaluate, verify, ui)


def _add_experiments() -> None:
    """The commands of the checkout, `theory` and `bench`: only where `experiments` lies beside this very source."""
    root = Path(__file__).parents[3]
    if not (root / "pyproject.toml").is_file() or not (root / "experiments" / "__init__.py").is_file():
        return
    if str(root) not in sys.path:
        sys.path.append(str(root))
    for name, module in (("theory", "experiments.theory.command"), ("bench", "experiments.benchmark.command")):
        _add("Experiments", getattr(import_module(module), name))


_add_experiments()


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script."""
    app(arguments, prog_name="bootdiff")

"""`bootdiff recipe`: the reference of a recipe's keys, and a recipe to start from."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from bootdiff.errors import BootdiffError

__all__ = ["embedded_text", "recipe"]


def recipe(
    example: Annotated[bool, typer.Option("--example", help="Print a recipe to start from instead.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema instead: editors complete keys by it.")
    ] = False,
    find: Annotated[str, typer.Option(help="Only keys whose name or description contains this.")] = "",
) -> None:
    """List every key of a recipe: type, default, meaning.

    bootdiff recipe
    bootdiff recipe --find noise
    bootdiff recipe --example > mine.yaml
    bootdiff recipe --schema > recipe.schema.json
    """
    from bootdiff.recipe.schema import json_schema, reference

    if schema:
        typer.echo(json.dumps(json_schema(), indent=1))
        return

    if example:
        typer.echo(embedded_text("example"), nl=False)
        return
    entries = [e for e in reference() if find.lower() in f"{e.key} {e.description}".lower()]
    if not entries:
        raise BootdiffError(f"--find {find}: no key of a recipe has this in its name or description")
    for entry in entries:
        default = f" [{entry.default}]" if entry.default else ""
        typer.secho(entry.key, bold=True, nl=False)
        typer.echo(f"  {entry.type}{default}\n    {entry.description}")


def embedded_text(name: str) -> str:
    """A recipe that the package carries: "example" or "letters" (the demo)."""
    from importlib.resources import files

    return files("bootdiff.recipe").joinpath("embedded", f"{name}.yaml").read_text(encoding="utf-8")

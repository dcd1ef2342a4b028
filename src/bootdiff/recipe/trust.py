"""Whether a recipe may name code: `kind: mypackage.module:MyNet` imports that module, and importing runs it.

A recipe is data, and is read from strangers' folders and from run directories; so it may name code only inside

    with trust_imports():
        recipe = load_recipe("mine.yaml")

which the command line enters for `--trust-imports`, and nothing else does.  Models made of such classes are then known
when they are loaded again: `imported_classes`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from bootdiff.settings import short_repr

__all__ = ["imported", "imported_classes", "is_import", "trust_imports", "trusted"]

_TRUSTED: ContextVar[bool] = ContextVar("trusted", default=False)
# What the recipes that were read inside have named: by import path.
_FOUND: ContextVar[dict[str, Any] | None] = ContextVar("found", default=None)


def trusted() -> bool:
    """Whether recipes may name code just now."""
    return _TRUSTED.get()


@contextmanager
def trust_imports(yes: bool = True) -> Iterator[None]:
    """Let recipes that are read inside name code by import path; with `yes` false, forbid it again."""
    token, found = _TRUSTED.set(yes), _FOUND.set({} if yes else None)
    try:
        yield
    finally:
        _TRUSTED.reset(token)
        _FOUND.reset(found)


def imported_classes() -> list[type]:
    """The classes that recipes have named so far inside `trust_imports`, for `serialization.load`; for a function that
    makes a network, those of its module.
    """
    classes: list[type] = []
    for found in (_FOUND.get() or {}).values():
        home = found.__module__
        beside = [c for c in vars(sys.modules[home]).values() if isinstance(c, type) and c.__module__ == home]
        classes += [found] if isinstance(found, type) else beside
    return list(dict.fromkeys(classes))


def is_import(kind: Any) -> bool:
    """Whether a kind is an import path.

    >>> is_import("mypackage.module:MyNet"), is_import("unet")
    (True, False)
    """
    return isinstance(kind, str) and ":" in kind


def imported(path: str) -> Any:
    """What `module:Name` stands for.

    Raises:
        ValueError: imports are not trusted here, no such module or name; the message says what to do.
    """
    module, _, name = path.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise ValueError(f"must be an import path such as mypackage.module:MyClass, got {short_repr(path)}")
    if not trusted():
        raise ValueError(
            f"this recipe would run code of `{module}`; if you trust it, call bootdiff with --trust-imports (in "
            "Python: inside bootdiff.recipe.trust.trust_imports())"
        )
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"there is no module {error.name!r} where Python looks ({', '.join(p for p in sys.path[:3] if p)}, ...); "
            f"install it, or add its folder to PYTHONPATH"
        ) from None
    except Exception as error:  # importing runs the module's code, which may raise anything
        raise ValueError(f"importing `{module}` failed: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            known = [n for n in vars(found) if not n.startswith("_")]
            raise ValueError(f"`{module}` has no {name!r}; it has {', '.join(known[:12]) or 'nothing'}")
        found = getattr(found, part)
    record = _FOUND.get()
    if record is not None:
        record[path] = found
    return found

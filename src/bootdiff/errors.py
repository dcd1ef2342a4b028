"""The one error bootdiff raises for what a user can fix: data, a recipe, a run.

Wrong arguments to a function raise `ValueError`; everything else keeps its own exception.
"""

from __future__ import annotations

__all__ = ["BootdiffError"]


class BootdiffError(Exception):
    """A problem with the user's data, recipe or run. The message says what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """

"""`python -m bootdiff` is the command `bootdiff`."""

from __future__ import annotations

from bootdiff.cli.main import main

if __name__ == "__main__":
    main()

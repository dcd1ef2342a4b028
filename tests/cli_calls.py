"""A tiny recipe, and calls of the command line in this process."""

from __future__ import annotations

from typer.testing import CliRunner

TINY = """\
simulate: {pool: {path: digits, labels: true, limit: 200}, full: 30, test: 24}
full: {holdout: 10}
views:
  thumbnails: {view: {kind: downsample, factor: 2}}
  halves: {view: {kind: crop, size: [8, 4], offset: [0, 0]}}
backbones:
  local: {kind: local, width: 8, depth: 3}
training: {steps: 20, batch: 16, lr: 0.01, ema: 0.9, warmup: 0, evaluate_every: 10}
levels: [0.2, 0.8, 3.2]
evaluate: {draws: 1, samples: 0}
sampling: {count: 4, steps: 4}
device: cpu
"""


def call(*arguments: object):
    """`bootdiff ARGUMENTS` in this process; a message for the user must be all that a failure prints."""
    from bootdiff.cli.main import app

    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def refused(*arguments: object) -> str:
    """The message of a command that must end with exit code 2."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("bootdiff: ")
    return result.stderr

"""Runs a command in this process, the way its console script does."""

import sys

import pytest
from absl.testing import flagsaver

from mirage_jax.cli.helpers import common


def run(module, arguments, monkeypatch, capsys):
    """Calls `module.main` with a command line; (exit code, stdout on one line, stderr)."""
    # Overrides of config fields are looked up in sys.argv.
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
        common.run(module.main, module.__name__)
    out, err = capsys.readouterr()
    return leave.value.code or 0, " ".join(out.split()), err

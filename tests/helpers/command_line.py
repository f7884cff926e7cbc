"""Runs a command in this process, the way its console script does."""

import importlib
import pkgutil
import sys

import pytest
from absl.testing import flagsaver

from helpers import paths
from mirage_jax.cli import helpers as cli_helpers
from mirage_jax.cli.helpers import common

# Flags that a command would define while it runs go with it, and their module stays imported.
for _module in pkgutil.iter_modules(cli_helpers.__path__, f"{cli_helpers.__name__}."):
    importlib.import_module(_module.name)


def run(command, arguments, monkeypatch, capsys):
    """Calls `mirage COMMAND` with a command line; (exit code, stdout, stderr)."""
    module = importlib.import_module(f"mirage_jax.cli.{command}")
    # Overrides of config fields are looked up in sys.argv.
    monkeypatch.setattr(sys, "argv", [f"mirage {command}", *arguments])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
        common.run(module.main, module.__name__)
    out, err = capsys.readouterr()
    return leave.value.code or 0, out, err


def assert_refused(outcome, *parts):
    """One line on stderr that has all the parts, and exit code 2."""
    code, _, err = outcome
    assert code == 2, err
    assert err.startswith("mirage: error: ") and "Traceback" not in err
    for part in parts:
        assert part in err, err


def tiny_config(experiment):
    """The tiny variant of an experiment, e.g. "quickstart.py" or "wan22_5b_memory.py:paper"."""
    config = common.load_config(str(paths.EXPERIMENTS / experiment))
    for name, value in config.tiny_overrides:
        common._set_dotted(config, name, value)
    return config

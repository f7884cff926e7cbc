"""The scripts in docs/examples do what their documentation says, in under 60 lines each."""

import importlib.util
import re

import numpy as np
import pytest

from helpers import paths

FOLDER = paths.ROOT / "docs" / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) < 60


def test_the_bank_alone_reads_what_was_seen(capsys):
    error = load("memory_bank").main()
    out = capsys.readouterr().out
    assert "768 cells stored" in out
    # The camera has moved by a fifth of what it sees: 0.5 m of 2.56 m.
    assert re.search(r"^(80|81)% of the new view", out, re.MULTILINE)
    # No further off than a cell, 0.08 m.
    assert 0 < error < 0.08


def test_the_branch_learns_from_the_memory_what_nothing_else_tells():
    losses = load("train_memory_branch").main(steps=60)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])

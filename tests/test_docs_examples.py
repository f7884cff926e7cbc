"""The scripts in docs/examples do what their documentation says, in under 60 lines each."""

import ast
import importlib.util
import math

import numpy as np
import pytest

from helpers import paths

FOLDER = paths.ROOT / "docs" / "examples"
SCRIPTS = ("memory_bank", "train_memory_branch")


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_examples_are_short_and_need_neither_loop_nor_config_of_ours(name):
    source = (FOLDER / f"{name}.py").read_text()
    assert len(source.splitlines()) < 60
    nodes = list(ast.walk(ast.parse(source)))
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    used = {name.split(".")[0] for name in modules} | set(modules)
    assert not used & {"mirage_jax.training", "mirage_jax.cli", "ml_collections"}


def test_the_bank_alone_reads_what_was_seen(capsys):
    """Cells are 2 m * 8 / 200 = 0.08 m wide, so that 0.5 m are 6.25 of them.

    What was stored lies a quarter of a cell beside the centre of the cell that shows it, 0.02 m,
    and 26 of the 32 columns show something; an offset of half a cell changes one or the other.
    """
    example = load("memory_bank")
    # The upper left cell's centre is at pixel (4, 4), seen by fx = fy = 200 around (128, 96).
    np.testing.assert_allclose(example.places(0.5)[0, 0, 0], [0.5 - 1.24, -0.92], atol=1e-6)
    assert example.main() == pytest.approx(0.02, abs=1e-3)
    out = capsys.readouterr().out
    assert "768 cells stored" in out  # 24 x 32
    assert f"{26 / 32:.0%} of the new view" in out
    assert "0.080 m wide" in out


def test_the_branch_learns_from_the_memory_what_nothing_else_tells():
    """Without memory no model, however trained, has a loss below 1.11.

    A place x ~ N(0, 1) is seen twice, as (1 - s) x + s n with noise n of its own and s uniform on
    [0, 1]; what is predicted is n - x. Given both, x has the variance s^2 / (s^2 + 2 (1 - s)^2) and
    n - x that by s^2; its mean over s is pi / sqrt(8).
    """
    losses = load("train_memory_branch").main(steps=60)
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.8 * math.pi / math.sqrt(8) < np.mean(losses[:10])

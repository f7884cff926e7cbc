"""The floors of the house: nothing imports what lies above it."""

import ast
import subprocess
import sys

import pytest

from helpers.paths import ROOT

# Lowest first. Parts of one floor do not know each other.
FLOORS = (
    ("settings", "origin", "plausible"),
    ("pose_checks",),
    ("geometry",),
    ("io",),
    ("trajectories", "chunks"),
    ("weights",),
    ("parallel",),
    ("memory", "nn"),
    ("diffusion",),
    ("convert",),
    ("world", "data_pipelines"),
    ("__init__",),
    ("training", "evaluation"),
    ("explore",),
    ("cli",),
    ("experiments",),
)
# What knows less than it could, and the one thing that a config takes from the commands.
ONLY = {"data_pipelines": {"geometry", "plausible", "pose_checks", "io", "settings"}}
FROM_CLI = {"experiments": "load_config"}

HEIGHT = {part: height for height, floor in enumerate(FLOORS) for part in floor}
PACKAGES = ("mirage_jax", "data_pipelines", "experiments")
FILES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
MOST_LINES = 400


def part_of(name):
    """The part of a module, package or file's dotted name; None if it is not of this house."""
    package, *rest = name.split(".")
    if package != "mirage_jax":
        return package if package in PACKAGES else None
    return rest[0] if rest else "__init__"


def imports_of(file, text):
    """(line, module, name taken from it or None) of every import, wherever it stands."""
    folder = file.split("/")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, module, alias.name) for alias in node.names)


def may_import(part, other):
    """Whether a part may import from another."""
    if part in ONLY:
        return other in ONLY[part]
    return HEIGHT[other] < HEIGHT[part]


def violations(files):
    """'file:line imports module' of what floors do not allow, by part."""
    found = {}
    for file, text in files.items():
        part = part_of(file.removesuffix(".py").replace("/", "."))
        for line, module, name in imports_of(file, text):
            # `from mirage_jax import memory` takes a part, not what the package itself defines.
            whole = f"{module}.{name}" if module == "mirage_jax" and name in HEIGHT else module
            other = part_of(whole)
            if other is None or other == part:
                continue
            if not may_import(part, other) or (
                other == "cli" and FROM_CLI.get(part) != (name or whole)
            ):
                taken = f" ({name})" if name else ""
                found.setdefault(part, []).append(f"{file}:{line} imports {whole}{taken}")
    return found


VIOLATIONS = violations(FILES)


def test_every_part_has_a_floor():
    parts = {part_of(file.removesuffix(".py").replace("/", ".")) for file in FILES}
    assert parts <= set(HEIGHT), f"found {sorted(parts - set(HEIGHT))}, expected floors for them"


@pytest.mark.parametrize("part", HEIGHT)
def test_nothing_imports_what_lies_above_it(part):
    found = VIOLATIONS.get(part, [])
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "text", "allowed"),
    [
        ("mirage_jax/nn/a.py", "import mirage_jax.geometry", True),
        ("mirage_jax/nn/a.py", "from mirage_jax import geometry, parallel", True),
        ("mirage_jax/nn/a.py", "from mirage_jax import memory", False),
        ("mirage_jax/nn/a.py", "import mirage_jax", False),
        ("mirage_jax/nn/a.py", "from ..world import model", False),
        ("mirage_jax/nn/a.py", "def f():\n    from mirage_jax.world import model", False),
        ("mirage_jax/nn/a.py", "if TYPE_CHECKING:\n    import mirage_jax.cli.main", False),
        ("mirage_jax/training/a.py", "from mirage_jax.evaluation import revisit", False),
        ("mirage_jax/evaluation/a.py", "from mirage_jax.training.state import State", False),
        ("mirage_jax/training/a.py", "from data_pipelines import loading", True),
        ("data_pipelines/a.py", "from mirage_jax.trajectories import make", False),
        ("data_pipelines/a.py", "from mirage_jax import pose_checks", True),
        ("mirage_jax/cli/a.py", "import experiments.quickstart", False),
        ("experiments/a.py", "from mirage_jax.cli.helpers.common import load_config", True),
        ("experiments/a.py", "from mirage_jax.cli.helpers import common", False),
        ("experiments/a.py", "import mirage_jax.cli.main", False),
    ],
)
def test_a_wrong_import_would_be_found(file, text, allowed):
    assert bool(violations({file: text})) != allowed


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("mirage_jax/")])
def test_files_are_short_enough_to_read(file):
    lines = len(FILES[file].splitlines())
    assert lines <= MOST_LINES, f"found {lines} lines in {file}, expected at most {MOST_LINES}"


def test_what_needs_no_arrays_of_jax_does_not_import_it():
    code = (
        "import sys, mirage_jax, data_pipelines.clip\n"
        "found = [name for name in ('jax', 'flax', 'tensorflow') if name in sys.modules]\n"
        "sys.exit(' '.join(found) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"they import {run.stderr.strip()}"

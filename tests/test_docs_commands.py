"""Commands and Python that the documentation shows name what there is."""

import ast
import importlib
import re

import pytest

from helpers import paths
from mirage_jax.cli.helpers.common import load_config
from mirage_jax.cli.main import COMMANDS

PAGES = [
    *(paths.ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((paths.ROOT / "docs").glob("*.md")),
    *sorted((paths.ROOT / "docs" / "formats").glob("*.md")),
    *sorted(path for path in paths.EXPERIMENTS.glob("*.py") if path.stem != "__init__"),
]
OURS = ("mirage_jax", "data_pipelines")
DEFINED = re.compile(r"DEFINE(?:_\w+\(|\(\s*\w+\([^\"]*\),)\s*\"(\w+)\"")


def texts(page):
    text = page.read_text()
    return text if page.suffix == ".md" else ast.get_docstring(ast.parse(text)) or ""


def commands(text):
    """Every `mirage ...` command, lines that end in a backslash joined, without its comment."""
    joined = re.sub(r"\\\n\s*", "", text)
    found = re.findall(r"(?:^|`)[ ]*mirage (?=[a-z]+ )([^`\n#]*)", joined, re.MULTILINE)
    return [command.split() for command in found]


def flags_of(command):
    files = [paths.ROOT / "mirage_jax" / "cli" / f"{command}.py"]
    files += (paths.ROOT / "mirage_jax" / "cli" / "helpers").glob("*.py")
    found = {name for file in files for name in DEFINED.findall(file.read_text())}
    short = getattr(importlib.import_module(f"mirage_jax.cli.{command}"), "SHORT_FLAGS", ())
    return {"config", "help"} | found | {flag.name for flag in short}


def unknown(command):
    """What of a command line there is not: the command, a flag, an experiment, a field of it."""
    name, *words = command
    if name not in COMMANDS:
        return [name]
    flags = dict(word.removeprefix("--").partition("=")[::2] for word in words if word[:2] == "--")
    experiment, _, variant = flags.get("config", "experiments/quickstart.py").partition(":")
    path = paths.ROOT / experiment
    if not path.exists():
        return [experiment]
    config = load_config(f"{path}:{variant}" if variant else str(path))
    found = []
    for flag in flags:
        top, *fields = flag.split(".")
        value = config
        for field in fields:
            value = value.get(field, None) if hasattr(value, "get") else None
        if top not in flags_of(name) or value is None:
            found.append(flag)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(paths.ROOT)))
def test_commands_and_their_flags_are_there(page):
    assert {" ".join(c): unknown(c) for c in commands(texts(page)) if unknown(c)} == {}


@pytest.mark.parametrize("page", [p for p in PAGES if p.suffix == ".md"], ids=lambda p: p.name)
def test_flags_in_sentences_are_those_of_a_command(page):
    said = set(re.findall(r"`--(\w+)", page.read_text()))
    assert said <= set().union(*(flags_of(command) for command in COMMANDS))


def without_footage(command):
    """Whether a command reads clips as large as Wan's, which footage alone has, and names none."""
    name, *words = command
    large = any(re.match(r"--config=.*wan22_5b", word) for word in words)
    given = any(re.match(r"--(source|config\.data\.root)=", word) for word in words)
    readers = ("record", "encode", "train", "evaluate", "quickstart")
    return name in readers and large and not given and "--config.tiny=true" not in words


def test_commands_of_the_large_configs_name_their_footage():
    launched = (paths.EXPERIMENTS / "launch" / "gke_jobset.yaml").read_text()
    arguments = re.findall(r"^ +- (--\S+)$", launched, re.MULTILINE)
    shown = [["train", *arguments]]
    shown += (c for page in PAGES for c in commands(texts(page)))
    files = sorted((paths.ROOT / "mirage_jax" / "cli").glob("*.py"))
    shown += (
        c for file in files for c in commands(ast.get_docstring(ast.parse(file.read_text())) or "")
    )
    large = [c for c in shown if re.search("wan22_5b", " ".join(c))]
    assert len(large) > 12 and [" ".join(c) for c in large if without_footage(c)] == []
    assert without_footage(["train", "--config=experiments/wan22_5b_joint.py", "--stage=all"])


def test_unknown_flags_are_found():
    said = (
        "    mirage train --config=experiments/quickstart.py --config.denoiser.width=2 \\\n"
        "        --config.denoiser.girth=2 --stage=all   # --comment\n"
        "`mirage generate --guide=5` and mirage records worlds; `mirage walk --far`\n"
        "mirage train --config=experiments/none.py\n"
    )
    found = [unknown(command) for command in commands(said)]
    expected = [["config.denoiser.girth"], ["guide"], ["walk"], ["experiments/none.py"]]
    assert sorted(found) == sorted(expected)


def missing_names(source):
    """Names of our packages that a piece of Python imports or uses and that are not there."""
    tree, modules, found = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in OURS:
                    name = alias.name if alias.asname else alias.name.split(".")[0]
                    modules[alias.asname or name] = importlib.import_module(name)
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OURS:
            parent = importlib.import_module(node.module)
            for alias in node.names:
                value = getattr(parent, alias.name, None) or submodule(node.module, alias.name)
                if value is None:
                    found.append(f"{node.module}.{alias.name}")
                modules[alias.asname or alias.name] = value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            holder = modules.get(node.value.id)
            if hasattr(holder, "__file__") and not hasattr(holder, node.attr):
                found.append(f"{holder.__name__}.{node.attr}")
    return found


def submodule(package, name):
    try:
        return importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError:
        return None


@pytest.mark.parametrize("page", [p for p in PAGES if p.suffix == ".md"], ids=lambda p: p.name)
def test_python_uses_names_that_are_there(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert [name for block in blocks for name in missing_names(block)] == []


def test_missing_names_are_found():
    source = (
        "from mirage_jax import memory, nothing\nimport mirage_jax.geometry as g\n"
        "import numpy as np\nmemory.write(g.Camera, np.none)\nmemory.wrote(g.Lens)\n"
    )
    assert sorted(missing_names(source)) == [
        "mirage_jax.geometry.Lens",
        "mirage_jax.memory.wrote",
        "mirage_jax.nothing",
    ]

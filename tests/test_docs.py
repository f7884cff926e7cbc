"""The documentation points at what is there: files, headings, parameters, modules, commands."""

import ast
import re
from importlib.util import module_from_spec, spec_from_file_location

import pytest

from helpers import paths

MADE = ("docs/reference", "docs/notebooks")  # by docs/build.py
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "experiments/**/*.md")
    for path in paths.ROOT.glob(pattern)
    if not path.relative_to(paths.ROOT).as_posix().startswith(MADE)
)
CODE = re.compile(r"```.*?```|~~~.*?~~~|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
GROUPED = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): ")


def anchors(text):
    """Names of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ +(.+?) *$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def broken_links(page, text):
    found = []
    for target in LINK.findall(CODE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists():
            found.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(text if path == page else path.read_text()):
            found.append(f"{target}: no such heading")
    return found


def unknown_parameters(tree):
    """What docstrings of functions say of parameters which the functions do not have."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        arguments = node.args
        known = {a.arg for a in arguments.posonlyargs + arguments.args + arguments.kwonlyargs}
        known |= {f"*{arguments.vararg.arg}"} if arguments.vararg else set()
        known |= {f"**{arguments.kwarg.arg}"} if arguments.kwarg else set()
        for name in described(ast.get_docstring(node) or ""):
            if name not in known and name.lstrip("*") not in {k.lstrip("*") for k in known}:
                found.append(f"{node.name}: {name}")
    return found


def described(docstring):
    """Parameters that the section "Args:" of a docstring names."""
    inside, names = False, []
    for line in docstring.splitlines():
        if line and not line.startswith(" "):
            inside = line == "Args:"
        elif inside and (match := GROUPED.match(line[2:])):
            names += match[1].split(", ")
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(paths.ROOT)))
def test_links_lead_somewhere(page):
    assert broken_links(page, page.read_text()) == []


def test_broken_links_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# The *first* one, at 2x\n")
    good = "[a](other.md#the-first-one-at-2x) [b](https://example.org) `[c](none.md)`"
    bad = "\n# Here\n[a](none.md) [b](other.md#second) [c](#here) [d](#there)"
    page = tmp_path / "page.md"
    page.write_text(good + bad)
    found = broken_links(page, page.read_text())
    assert [line.split(":")[0] for line in found] == ["none.md", "other.md#second", "#there"]


def missing_paths(text):
    """Python files and folders in code spans that are not there, functions not in their files."""
    found = []
    for name, path in re.findall(r"(?:`(\w+)` in\s)?`(\w+/[\w./]*)`", text):
        places = [paths.ROOT / path, paths.ROOT / "mirage_jax" / path]
        here = [place for place in places if place.exists()]
        python = path.endswith(".py") and "NAME" not in path  # of one's own to be
        ours = path.endswith("/") and (paths.ROOT / path.split("/")[0]).exists()
        if not here and (python or ours):
            found.append(path)
        elif (
            here
            and name
            and not re.search(rf"^(def |class )?{name}\b", here[0].read_text(), re.MULTILINE)
        ):
            found.append(f"{path}: {name}")
    return found


# The changelog also names what there was before.
OF_NOW = [page for page in PAGES if page.name != "CHANGELOG.md"]


@pytest.mark.parametrize("page", OF_NOW, ids=lambda page: str(page.relative_to(paths.ROOT)))
def test_files_that_pages_name_are_there(page):
    assert missing_paths(page.read_text()) == []


def test_missing_files_are_found():
    said = "`make_step` in `training/state.py`, `gone` in `mirage_jax/geometry.py`, `nn/none.py`, "
    said += "`latents/`, `tests/none/`, `mirage_jax/NAME.py`"
    assert missing_paths(said) == ["mirage_jax/geometry.py: gone", "nn/none.py", "tests/none/"]


@pytest.mark.parametrize("package", ["mirage_jax", "data_pipelines"])
def test_docstrings_speak_of_parameters_that_there_are(package):
    files = sorted((paths.ROOT / package).rglob("*.py"))
    assert len(files) > 10
    found = {path.name: unknown_parameters(ast.parse(path.read_text())) for path in files}
    assert {name: names for name, names in found.items() if names} == {}


def test_unknown_parameters_are_found():
    source = (
        "def f(a, b, *rest, **more):\n"
        "    '''Says.\n\n    Args:\n      a, gone: both,\n        x: of the first.\n"
        "      *rest: others.\n    Returns:\n      c: no parameter.\n    '''\n"
    )
    assert unknown_parameters(ast.parse(source)) == ["f: gone"]


def load_build():
    spec = spec_from_file_location("docs_build", paths.ROOT / "docs" / "build.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_has_a_page_for_every_public_module(tmp_path):
    for name in ("mirage_jax/new/part.py", "mirage_jax/_own/x.py", "data_pipelines/a.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("")
        (path.parent / "__init__.py").write_text("")
    folder = tmp_path / "reference"
    (folder / "mirage_jax").mkdir(parents=True)
    (folder / "mirage_jax" / "moved.md").write_text("of before")
    load_build().write_reference(tmp_path, folder)
    pages = {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")}
    assert pages == {
        "index.md",
        "mirage_jax/new/index.md",
        "mirage_jax/new/part.md",
        "data_pipelines/index.md",
        "data_pipelines/a.md",
    }
    assert "::: mirage_jax.new.part\n" in (folder / "mirage_jax/new/part.md").read_text()


def test_reference_knows_the_modules_of_this_package():
    names = load_build().public_modules(paths.ROOT)
    assert {"mirage_jax", "mirage_jax.memory", "mirage_jax.geometry"} < set(names)
    assert "data_pipelines.sources.paths" in names


EXPERIMENTS = sorted(
    path for path in (paths.ROOT / "experiments").glob("*.py") if path.stem != "__init__"
)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_say_how_they_are_run(path):
    said = ast.get_docstring(ast.parse(path.read_text())) or ""
    commands = re.findall(r"^ *mirage (\w+) +--config=(\S+)", said, re.MULTILINE)
    assert f"experiments/{path.name}" in [config for _, config in commands]
    commanded = {command for command, _ in commands}
    known = {file.stem for file in (paths.ROOT / "mirage_jax" / "cli").glob("*.py")}
    assert commanded <= known


def test_commands_of_the_readme_are_targets_of_the_makefile():
    makefile = (paths.ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    said = set(re.findall(r"^make ([a-z-]+)", (paths.ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"quickstart", "test"} <= said <= targets


def test_hooks_before_a_commit_are_those_of_make_lint():
    makefile = (paths.ROOT / "Makefile").read_text()
    recipe = makefile.split("\nlint:")[1].split("\n\n")[0].splitlines()[1:]
    hooks = (paths.ROOT / ".pre-commit-config.yaml").read_text()
    entries = re.findall(r"entry: (.+)", hooks)
    assert entries == [line.strip().removeprefix("$(BIN)/") for line in recipe]

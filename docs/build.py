"""Builds the documentation site: the pages of docs/, the notebook and a reference of every module.

    make docs                    # installs what it needs, then runs this
    python docs/build.py         # with `pip install -e '.[docs]'` done

Modules are read, never imported. A page or anchor that does not exist, a name in `[name][]` that
nothing is called, and a docstring that speaks of a parameter which the function lacks all fail the
build. Nothing is fetched.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PACKAGES = ("mirage_jax", "data_pipelines")
COMPLAINTS = ("griffe:", "mkdocstrings:")
"""Beginnings of lines that tell of something wrong and that the generator does not mind itself."""


def public_modules(root: Path) -> list[str]:
    """Dotted names of the modules of `PACKAGES` that have no underscore in front, packages too."""
    names = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if not any(part.startswith("_") for part in parts):
                names.append(".".join(parts))
    return names


def write_reference(root: Path, folder: Path) -> None:
    """Makes `folder` anew with one page for each module, which the generator fills."""
    shutil.rmtree(folder, ignore_errors=True)
    names = public_modules(root)
    for name in names:
        *parents, last = name.split(".")
        is_package = (root / Path(*parents, last)).is_dir()
        page = folder.joinpath(*parents, *([last, "index.md"] if is_package else [f"{last}.md"]))
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"---\ntitle: {last}\n---\n\n# `{name}`\n\n::: {name}\n")
    links = [f"- [{package}]({package}/index.md)" for package in PACKAGES]
    (folder / "index.md").write_text("# Reference\n\n" + "\n".join(links) + "\n")


def notebook_page(notebook: Path) -> str:
    """A notebook as Markdown: its prose, and its code as blocks of Python."""
    cells = json.loads(notebook.read_text())["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells]
    return "\n\n".join(f"```python\n{text}\n```" if code else text for text, code in texts) + "\n"


def main() -> int:
    """Exit status: 0 where everything was built and nothing was complained of."""
    write_reference(ROOT, DOCS / "reference")
    for notebook in sorted((DOCS / "notebooks").glob("*.ipynb")):
        notebook.with_suffix(".md").write_text(notebook_page(notebook))
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--clean", "--strict"]
    run = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert run.stdout is not None
    failed = False
    for line in run.stdout:
        print(line, end="")
        failed |= line.startswith(COMPLAINTS)
    failed |= run.wait() != 0
    print("docs: failed, see above" if failed else "docs: build/docs/index.html")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""The notebook runs from top to bottom, on a model of the smallest size, and keeps no outputs."""

import ast
import json

import numpy as np
import pytest
from PIL import Image

from helpers import paths, tiny_world
from mirage_jax.weights import export, module_fields
from mirage_jax.world.loading import denoiser_architecture

NOTEBOOK = paths.ROOT / "docs" / "notebooks" / "first_steps.ipynb"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the notebook runs, with the work directory that it expects."""
    model = tiny_world.world_model()
    parts = tmp_path / "runs" / "quickstart" / "model"
    model.encoder.save(parts / "encoder")
    head = {"kind": "geometry_head", "head": module_fields(model.head)}
    export(parts / "geometry", model.head_params, head)
    architecture = denoiser_architecture(
        model.denoiser,
        model.conditioner,
        size=model.size,
        chunk_frames=model.chunk_frames,
        sampler=model.sampler,
        memory=model.memory,
        context_frames=model.context_frames,
    )
    export(parts / "denoiser_latent", model.denoiser_params, architecture)
    folder = tmp_path / "docs" / "notebooks"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def run(cells):
    """The namespace after all cells, and what each would show: the value of its last expression."""
    names, shown = {"__name__": "notebook"}, []
    for number, source in enumerate(cells):
        body = ast.parse(source).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), f"cell {number}", "exec"), names)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names))
    return names, [value for value in shown if value is not None]


def test_the_notebook_runs_and_shows_what_it_says(folder):
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    names, shown = run("".join(cell["source"]) for cell in code)

    assert names["video"].shape == (33, *tiny_world.SIZE, 3)
    assert names["video"].dtype == np.uint8
    assert len(shown) == 5
    assert all(isinstance(picture, Image.Image) for picture in shown)
    assert all(np.asarray(picture).std() > 0 for picture in shown)
    # One latent of each chunk of five frames is new, and the first picture was written.
    assert int(names["bank"].frames) == 1 + 32 // 4
    assert int(names["bank"].count) == names["valid"].sum() > 0
    # What was continued is what was saved.
    np.testing.assert_array_equal(names["again"].bank.xyz, names["bank"].xyz)
    assert int(names["chunk"].world.frames) == 33 + tiny_world.CHUNK - 1
    assert (folder / "first_steps.world").stat().st_size > 0

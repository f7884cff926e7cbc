"""The shape that is generated is the trained one nearest to what is started from."""

import types

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from mirage_jax.cli.helpers import generated_shape
from mirage_jax.cli.helpers.generated_shape import Started, size_of_start
from mirage_jax.io.framing import centred_window, nearest_shape

SIZES = ((32, 48), (48, 32), (40, 40))


def cells_of(size):
    return size[0] // 8, size[1] // 8


def test_the_nearest_shape_keeps_most_of_the_picture():
    rng = np.random.default_rng(0)
    for size in map(tuple, rng.integers(60, 400, (200, 2)).tolist()):
        kept = [np.prod(centred_window(size, shape)[2]) / np.prod(size) for shape in SIZES]
        chosen = kept[SIZES.index(nearest_shape(SIZES, size))]
        assert chosen > max(kept) - 0.05  # windows are whole pixels
    assert nearest_shape(SIZES, None) == SIZES[0]
    for shapes in (SIZES[:2], SIZES[1::-1]):
        assert nearest_shape(shapes, (50, 50)) == shapes[0]  # as near to the one as to the other


@pytest.mark.parametrize(
    ("picture", "expected"), [((90, 160), SIZES[0]), ((160, 90), SIZES[1]), ((64, 66), SIZES[2])]
)
def test_of_a_picture(picture, expected, tmp_path):
    path = tmp_path / "start.png"
    Image.fromarray(np.zeros((*picture, 3), np.uint8)).save(path)
    assert size_of_start(ConfigDict(), SIZES, Started(image=str(path)), cells_of) == expected
    assert size_of_start(ConfigDict(), (), Started(image=str(path)), cells_of) is None
    assert size_of_start(ConfigDict(), SIZES, Started(), cells_of) is None


@pytest.mark.parametrize(("cells", "expected"), [((6, 4), SIZES[1]), ((5, 5), SIZES[2])])
def test_of_a_saved_world(cells, expected, monkeypatch):
    latent = np.zeros((*cells, 8))
    file = types.SimpleNamespace(world=types.SimpleNamespace(latent=latent))
    monkeypatch.setattr(generated_shape, "read_world_file", lambda path: file)
    started = Started(world="a.world")
    assert size_of_start(ConfigDict(), SIZES, started, cells_of) == expected
    assert size_of_start(ConfigDict(), SIZES[:1], started, cells_of) is None

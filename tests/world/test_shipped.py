"""The weights that ship."""

import configparser
import fnmatch

import jax
import numpy as np
import pytest

import mirage_jax as mirage
from helpers.paths import ROOT
from mirage_jax.evaluation import image_metrics
from mirage_jax.io.workdir import Workdir
from mirage_jax.weights import fingerprint, load_export
from mirage_jax.world import shipped
from mirage_jax.world.latent_encoder import to_model_range, to_uint8

MEGABYTES = 25


@pytest.fixture(scope="module")
def model():
    return mirage.load("demo")


def test_they_are_small_and_part_of_the_package():
    files = [path for path in shipped.DEMO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MEGABYTES * 2**20
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["mirage_jax"].split()
    packaged = [path.relative_to(ROOT / "mirage_jax").as_posix() for path in files]
    missing = [p for p in packaged if not any(fnmatch.fnmatch(p, pattern) for pattern in patterns)]
    assert not missing, f"found {missing}, expected all in setup.cfg's package_data"


def test_they_are_stored_in_bfloat16_and_run_in_float32(model):
    stored, _ = load_export(shipped.DEMO / "model" / "denoiser_latent")
    assert {str(x.dtype) for x in jax.tree.leaves(stored)} == {"bfloat16"}
    parts = (model.encoder.params, model.head_params, model.denoiser_params)
    assert {str(x.dtype) for x in jax.tree.leaves(parts)} == {"float32"}


def test_start_pictures_fit_them(model):
    pictures = shipped.start_pictures()
    assert pictures
    for picture in pictures.values():
        assert picture.shape == (*model.size, 3)


@pytest.mark.parametrize("decoder", ["vae", "auto"])
def test_a_start_picture_is_decoded_as_it_was(decoder):
    """The weights are no noise: what the encoder keeps of a picture is most of it."""
    model = mirage.load("demo", decoder=decoder)
    pictures = np.stack([*shipped.start_pictures().values()])

    @jax.jit
    def coded(pictures):
        return model.encoder.decode(model.encoder.encode_images(pictures)[:, None])[:, 0]

    made = to_uint8(coded(to_model_range(pictures)))
    assert image_metrics.psnr(made, pictures).min() > 20


def test_they_are_written_as_they_lie_there(tmp_path):
    """Rounded tensors round to themselves."""
    shipped.write(shipped.DEMO, tmp_path)
    for part in shipped.PARTS:
        written, kept = (Workdir(f).model(part) for f in (tmp_path, shipped.DEMO))
        assert fingerprint(written) == fingerprint(kept)


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped.folder_of("demo") == shipped.DEMO
    (tmp_path / "demo").mkdir()
    with pytest.raises(FileNotFoundError, match="demo: found no trained model"):
        mirage.load("demo")

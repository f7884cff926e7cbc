"""Batches of pictures of several shapes: a program each, before the first step, exact resume."""

import dataclasses
import io
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from data_pipelines.mixture import Mixture
from helpers import command_line, tiny_task, tiny_world
from mirage_jax import parallel
from mirage_jax.cli.helpers import build
from mirage_jax.training import LoopSettings, OptimizerSettings, held_out
from mirage_jax.training.geometry_task import GeometryTask
from mirage_jax.training.prior_fit import fit_memory_prior
from mirage_jax.training.sources import Joined
from mirage_jax.training.stage import StageOptions, train_task
from mirage_jax.world.latent_clip import FIELDS, LatentClip

COUNTS = (6, 5)
MIXTURE = Mixture(COUNTS, (1.0, 1.0), apart=True)


def options(steps, console, **changes):
    return StageOptions(
        **{
            "loop": LoopSettings(steps=steps, log_every=1, ema_decay=0.9),
            "optimizer": OptimizerSettings(learning_rate=1e-3, warmup=1, schedule="constant"),
            "batch_size": 2,
            "workers": 0,
            "mesh": parallel.make_mesh(devices=jax.devices()[:1]),
            "rules": parallel.preset("full"),
            "init_from": None,
            "config": {},
            "console": console,
        }
        | changes
    )


class Points:
    """Elements of `rows` points, the first of which cannot be read."""

    def __init__(self, count, rows):
        self.count, self.rows = count, rows

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == 0:
            raise ValueError(f"element 0 of {self.rows} rows is damaged")
        return {"x": np.random.default_rng(index).normal(size=(self.rows, 4)).astype(np.float32)}


class OfAnyRows(tiny_task.Regression):
    batch_shapes = 2

    def loss(self, params, batch, key, *, train, frozen=None):
        rows = {"x": batch["x"].reshape(-1, 4)}
        return super().loss(params, rows, key, train=train)


def test_every_shape_is_compiled_for_before_the_first_step(tmp_path):
    def run(name, steps, prepare=None):
        console = Console(file=io.StringIO(), width=200)
        source = Joined([Points(n, rows) for n, rows in zip(COUNTS, (3, 7), strict=True)])
        params = train_task(
            OfAnyRows(),
            source,
            tmp_path / name,
            options(steps, console, skip_share=0.5),
            name=name,
            mixture=MIXTURE,
            prepare=prepare,
        )
        return params, console.file.getvalue()

    whole, said = run("whole", 9)
    first = said.index("  1/9")
    assert said.count("a step takes") == said[:first].count("a step takes") == 2
    run("parts", 4)
    parts, said = run("parts", 9)
    assert "resuming from step 4" in said
    # Batches that are made on the devices are made by the loop itself, and are the same.
    makers = set()

    def prepare(batch):
        makers.add(threading.current_thread())
        return jax.tree.map(jnp.asarray, batch)

    prepared, _ = run("prepared", 9, prepare)
    assert makers == {threading.current_thread()}
    for found in (parts, prepared):
        for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(found), strict=True):
            np.testing.assert_array_equal(one, other)


def test_held_out_batches_are_of_one_set_each():
    joined = [numbers_from(count, first) for count, first in ((7, 0), (4, 100), (9, 200))]
    found = list(held_out.clip_batches(Joined(joined), 3, apart=(7, 4, 9)))
    sets = [sorted({int(x) // 100 for x in batch["x"]}) for batch in found]
    assert sets == [[0], [0], [1], [2], [2], [2]]
    values = np.concatenate([batch["x"] for batch in found])
    assert len(set(values.tolist())) == len(values) == 18


def numbers_from(count, first):
    """Random access to {"x": first + index}."""
    return [{"x": np.float32(first + index)} for index in range(count)]


class Clips:
    """Random latents of one picture shape, as a cache has them."""

    def __init__(self, count, height, width, channels):
        poses = np.tile(np.eye(4), (9, 1, 1))
        poses[:, 2, 3] = np.linspace(0, 1, 9)
        made, rng = tiny_world.latent_clips(count, poses), np.random.default_rng(width)
        self.fields = {name: getattr(made, name) for name in FIELDS}
        cells = dict.fromkeys(("chunks", "tokens", "rgb_chunks", "preceding"), (channels,))
        cells |= {"depth": (), "static": (), "rgb_hits": (4,)}
        for name, last in cells.items():
            found = self.fields[name].shape
            before = found[: len(found) - 2 - len(last)]
            shape = (*before, height, width, *last)
            self.fields[name] = rng.uniform(1, 2, shape).astype(np.float32)
        self.fields["static"].fill(1)

    def __len__(self):
        return len(self.fields["chunks"])

    def __getitem__(self, index):
        return {name: value[index] for name, value in self.fields.items()}


@pytest.fixture(scope="module")
def config():
    config = command_line.tiny_config("quickstart.py")
    config.chunk_frames, config.record.frames, config.record.size = 5, 9, 32
    return config


@pytest.fixture(scope="module")
def sets(config):
    """Pictures of 32x32 and of 32x48."""
    shapes = zip(COUNTS, (4, 6), strict=True)
    return Joined([Clips(n, 4, width, config.vae.latent_channels) for n, width in shapes])


@pytest.fixture(scope="module")
def task(config):
    encoder = tiny_world.random_encoder(build.vae(config))
    made = build.denoiser_task(config, "latent", (1.0,) * config.vae.latent_channels)
    return dataclasses.replace(made, sizes=2, encoder=encoder)


def test_the_memory_of_wide_pictures_is_read_as_by_a_task_of_their_own(task, sets):
    records = [sets[COUNTS[0] + index] for index in range(2)]
    batch = LatentClip(**{name: np.stack([r[name] for r in records]) for name in FIELDS})
    own = dataclasses.replace(task, size=(32, 48), sizes=1)
    key = jax.random.key(0)
    found, expected = (jax.jit(one.sample)(batch, key) for one in (task, own))
    assert found.target.shape[2:4] == (4, 6)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.long
def test_the_tiny_config_trains_on_two_shapes_and_resumes_exactly(config, task, sets, tmp_path):
    prior = fit_memory_prior(task, sets, batches=4, batch_size=8, apart=COUNTS)
    whole_task = dataclasses.replace(task, prior=prior)

    def run(name, steps, task=whole_task):
        console = Console(file=io.StringIO(), width=200)
        params = train_task(
            task,
            sets,
            tmp_path / name,
            options(steps, console),
            name=name,
            mixture=MIXTURE,
            eval_batches=lambda: held_out.clip_batches(sets, 2, apart=COUNTS),
        )
        return params, console.file.getvalue()

    whole, said = run("whole", 6)
    assert said[: said.index("  1/6")].count("a step takes") == said.count("a step takes") == 2
    assert "held out loss" in said
    run("parts", 3)
    parts, _ = run("parts", 6)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(one, other)
    head = GeometryTask(build.geometry_head(config), (4, 4, 8), batch_shapes=2)
    assert run("geometry", 3, head)[1].count("a step takes") == 2

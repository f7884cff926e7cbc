"""Chunks of several lengths: the draw, what an interrupted run sees, and a program for each."""

import itertools

import jax
import numpy as np
import pytest

from helpers import tiny_task
from mirage_jax import training
from mirage_jax.training import chunk_lengths
from mirage_jax.training.chunk_lengths import drawn_lengths, mixed_batches

LENGTHS = (5, 9, 17)


def test_lengths_are_alike_and_a_longer_draw_goes_on():
    long = drawn_lengths(LENGTHS, 3, 3000)
    shares = [(long == n).mean() for n in LENGTHS]
    np.testing.assert_allclose(shares, 1 / 3, atol=4 * np.sqrt(2 / 9 / 3000))
    for steps in (0, 1, 1023, 1024, 2000):
        np.testing.assert_array_equal(drawn_lengths(LENGTHS, 3, steps), long[:steps])
    assert (drawn_lengths(LENGTHS, 4, 3000) != long).any()


class Numbered:
    """Endless batches that say what they are."""

    def __init__(self, length, start):
        self.length, self.numbers, self.closed = length, itertools.count(start), False

    def __iter__(self):
        return self

    def __next__(self):
        return self.length, next(self.numbers)

    def close(self):
        self.closed = True


def test_an_interrupted_run_sees_the_batches_of_an_unbroken_one(monkeypatch):
    monkeypatch.setattr(chunk_lengths, "BLOCK", 8)
    whole = list(itertools.islice(mixed_batches(Numbered, LENGTHS, 1, 0), 40))
    for length in LENGTHS:
        numbers = [number for found, number in whole if found == length]
        assert numbers == list(range(len(numbers))) and len(numbers) > 3
    for start in (1, 7, 8, 21):
        rest = list(itertools.islice(mixed_batches(Numbered, LENGTHS, 1, start), 40 - start))
        assert rest == whole[start:]


def test_all_sources_are_closed():
    opened = []

    def make(length, start):
        opened.append(Numbered(length, start))
        return opened[-1]

    batches = mixed_batches(make, LENGTHS, 1, 0)
    next(batches)
    batches.close()
    assert len(opened) == 3 and all(batch.closed for batch in opened)


class TwoShapes(tiny_task.Regression):
    batch_shapes = 2


def two_sizes(start):
    """Batches of 2 and of 4 samples, in turns as drawn."""
    return mixed_batches(lambda n, at: tiny_task.Batches(at, size=n), (2, 4), 0, start)


def test_a_program_for_each_shape_and_an_exact_resume(tmp_path):
    task = TwoShapes()
    whole = training.fit(task, two_sizes, workdir=tmp_path / "whole", **tiny_task.settings(8))
    assert task.traces == 2
    training.fit(TwoShapes(), two_sizes, workdir=tmp_path / "parts", **tiny_task.settings(4))
    parts = training.fit(
        TwoShapes(), two_sizes, workdir=tmp_path / "parts", **tiny_task.settings(8)
    )
    for found, expected in zip(*(leaves(state) for state in (parts, whole)), strict=True):
        np.testing.assert_array_equal(found, expected)


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.ema))]


def test_a_third_shape_is_refused(tmp_path):
    def three_sizes(start):
        return mixed_batches(lambda n, at: tiny_task.Batches(at, size=n), (2, 4, 6), 0, start)

    with pytest.raises(ValueError, match="expected the shapes of the first batch"):
        training.fit(TwoShapes(), three_sizes, workdir=tmp_path, **tiny_task.settings(30))

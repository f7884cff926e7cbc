import functools

import jax
import numpy as np
import pytest

from mirage_jax.world import scenarios

DRAWS = 6000


def draws(table, keep_all, seed=0):
    # Compiles in half the time of the default generator.
    keys = jax.random.split(jax.random.key(seed, impl="rbg"), DRAWS)
    one = functools.partial(scenarios.draw, table=table, keep_all=keep_all)
    scenario, keyframes = jax.jit(jax.vmap(one))(keys)
    return np.asarray(scenario), np.asarray(keyframes)


def tolerance(probability):
    """Four standard deviations of an observed frequency."""
    return 4 * np.sqrt(probability * (1 - probability) / DRAWS)


def test_situations_of_two_chunks_of_five_latents():
    table = scenarios.scenarios(2, 5)
    first, back, reverse = scenarios.FIRST, scenarios.RETURN, scenarios.REVERSED
    np.testing.assert_array_equal(table.chunk[[first, back, reverse]], [0, 1, 0])
    # Keyframe k is frame 4 k; chunk 1 begins with frame 16, the last frame of chunk 0.
    kept = [np.flatnonzero(row).tolist() for row in table.keyframes]
    assert kept[first] == [0]
    assert kept[back] == [0, 1, 2, 3, 4]
    assert kept[reverse] == [4, 5, 6, 7, 8]
    assert table.keyframes.shape == (3, 9)
    assert table.probability.sum() == pytest.approx(1)


def test_the_last_of_three_chunks_returns():
    table = scenarios.scenarios(3, 3)
    kept = [np.flatnonzero(row).tolist() for row in table.keyframes]
    assert table.chunk.tolist() == [0, 2, 0]
    assert kept == [[0], [0, 1, 2, 3, 4], [2, 3, 4, 5, 6]]


def test_short_chunks_are_drawn_all_along_the_way():
    """Each remembers what was seen before it; the three situations stay where they are."""
    table = scenarios.scenarios(4, 2, between=True)
    kept = [np.flatnonzero(row).tolist() for row in table.keyframes]
    assert table.chunk.tolist() == [0, 3, 0, 1, 2]
    assert kept == [[0], [0, 1, 2, 3], [1, 2, 3, 4], [0, 1], [0, 1, 2]]
    np.testing.assert_allclose(table.probability, [0.2, 0.5 / 3, 0.3, 0.5 / 3, 0.5 / 3])
    assert table.goes_on.tolist() == [False, True, False, False, False]
    two = scenarios.scenarios(2, 5, between=True)
    for name, value in vars(scenarios.scenarios(2, 5)).items():
        np.testing.assert_array_equal(getattr(two, name), value)


def test_one_chunk_cannot_leave_and_return():
    with pytest.raises(ValueError, match="found 1, expected at least 2"):
        scenarios.scenarios(1, 5)


def test_draws_are_never_empty_and_hold_allowed_keyframes_only():
    table = scenarios.scenarios(2, 5)
    scenario, keyframes = draws(table, keep_all=0.5)
    assert keyframes.any(axis=1).all()
    assert not (keyframes & ~table.keyframes[scenario]).any()
    for number, probability in enumerate(table.probability):
        share = (scenario == number).mean()
        assert share == pytest.approx(probability, abs=tolerance(probability))


def test_the_whole_history_is_as_common_as_asked():
    table = scenarios.scenarios(2, 5, probability=(0.0, 1.0, 0.0))
    _, keyframes = draws(table, keep_all=1.0)
    np.testing.assert_array_equal(keyframes, np.tile(table.keyframes[1], (DRAWS, 1)))
    _, keyframes = draws(table, keep_all=0.5, seed=1)
    # Half by keep_all; of the rest one in six, since the number kept is uniform (below).
    expected = 0.5 + 0.5 / 6
    share = keyframes[:, :5].all(axis=1).mean()
    assert share == pytest.approx(expected, abs=tolerance(expected))


def test_sparse_and_dense_histories_are_equally_common():
    """With a uniform share the number kept of n is uniform on 0..n; none becomes one at random."""
    table = scenarios.scenarios(2, 5, probability=(0.0, 1.0, 0.0))
    _, keyframes = draws(table, keep_all=0.0)
    counts = np.bincount(keyframes.sum(axis=1), minlength=6) / DRAWS
    for count, probability in enumerate([0, 2 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 6]):
        assert counts[count] == pytest.approx(probability, abs=tolerance(probability))
    # By symmetry no keyframe is preferred: expected share (2 + 2 + 3 + 4 + 5) / 6 / 5.
    np.testing.assert_allclose(keyframes[:, :5].mean(axis=0), 16 / 30, atol=tolerance(16 / 30))
    alone = keyframes[keyframes.sum(axis=1) == 1][:, :5].mean(axis=0)
    np.testing.assert_allclose(alone, 0.2, atol=tolerance(0.2) * np.sqrt(3))

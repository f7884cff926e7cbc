"""Sets of clips by weight: how often, in which order, on any hosts, and in batches of their own."""

import itertools

import numpy as np
import pytest

from data_pipelines.loading import batches
from data_pipelines.mixture import Mixture


class Sets:
    """Three sets, one after the other; the last has pictures of another shape."""

    lengths = (50, 4, 10)

    def __len__(self):
        return sum(self.lengths)

    def __getitem__(self, index):
        shape = (2, 3) if index < 54 else (3, 2)
        return {"x": np.int64(index), "picture": np.full(shape, index)}


def numbers(element, rng):
    return {"x": element["x"], "draw": rng.integers(1 << 30)}


def take(count, mixture, transform=numbers, **options):
    options = {"batch_size": 4, "seed": 3, **options}
    with batches(Sets(), transform, mixture=mixture, **options) as loader:
        return list(itertools.islice(loader, count))


MIXED = Mixture(Sets.lengths, (1.0, 2.0, 1.0))


def test_sets_are_drawn_from_by_weight_and_gone_through_in_turn():
    drawn = np.concatenate([batch["x"] for batch in take(50, MIXED)])
    sets = np.searchsorted([50, 54], drawn, side="right")
    np.testing.assert_allclose(np.bincount(sets) / 200, [0.25, 0.5, 0.25], atol=0.01)
    for number, length in enumerate(Sets.lengths):
        own = drawn[sets == number]
        for start in range(0, len(own) - length + 1, length):
            assert len(set(own[start : start + length])) == length
    epochs = drawn[sets == 1][:8].tolist()
    assert epochs[:4] != epochs[4:]
    draws = np.concatenate([batch["draw"] for batch in take(50, MIXED)])
    assert len(set(draws)) == 200


def test_a_mixture_is_the_same_on_any_hosts_and_after_a_stop():
    whole = take(9, MIXED)
    for one, other in zip(whole[4:], take(5, MIXED, start_batch=4), strict=True):
        np.testing.assert_array_equal(one["draw"], other["draw"])
    parts = [take(9, MIXED, shard=(host, 2)) for host in range(2)]
    for index, batch in enumerate(whole):
        joined = np.concatenate([part[index]["x"] for part in parts])
        np.testing.assert_array_equal(joined, batch["x"])


def test_sets_of_other_shapes_are_batched_apart():
    apart = Mixture((54, 10), (3.0, 1.0), apart=True)
    drawn = take(40, apart, None)
    shapes = [batch["picture"].shape[1:] for batch in drawn]
    assert shapes.count((2, 3)) == 30 and shapes.count((3, 2)) == 10
    again = take(30, apart, None, start_batch=10)
    hosts = [take(40, apart, None, shard=(host, 2)) for host in range(2)]
    for number, batch in enumerate(drawn):
        assert len({x < 54 for x in batch["x"]}) == 1
        joined = np.concatenate([host[number]["x"] for host in hosts])
        np.testing.assert_array_equal(joined, batch["x"])
        if number >= 10:
            np.testing.assert_array_equal(again[number - 10]["x"], batch["x"])


@pytest.mark.parametrize(
    ("lengths", "weights", "message"),
    [
        ((50, 14), (1.0,), "weights: found 1 for 2 sets"),
        ((50, 14), (1.0, 0.0), "weights: found .* expected positive"),
        ((64, 0), (1.0, 1.0), "lengths: found .* expected positive"),
        ((60, 3), (1.0, 1.0), "mixture: found .* expected 64 in all"),
    ],
)
def test_mixtures_that_do_not_fit_are_refused(lengths, weights, message):
    with pytest.raises(ValueError, match=message):
        take(1, Mixture(lengths, weights))

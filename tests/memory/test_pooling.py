import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mirage_jax import memory

pool = jax.jit(memory.pool_depth, static_argnums=1)

depths = st.one_of(
    st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1.0, 1.05, 5.0]),
    st.floats(2**-7, 500, width=32),
)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, (4, 6), elements=depths))
def test_is_the_lower_median_of_the_pixels_that_vote(picture):
    depth, share = (np.asarray(x) for x in pool(picture, (2, 2)))
    for i in range(2):
        for j in range(2):
            cell = picture[2 * i : 2 * i + 2, 3 * j : 3 * j + 3].ravel()
            votes = np.sort(cell[cell > 0])  # NaN compares False; inf sorts last
            median = votes[(len(votes) - 1) // 2] if len(votes) else 0.0
            if not np.isfinite(median):
                median = 0.0
            assert depth[i, j] == median
            same = (cell > 0) & (np.abs(cell - median) <= np.float32(0.1) * np.float32(median))
            assert share[i, j] == pytest.approx(same.mean() if median else 0.0)


def test_an_edge_is_never_blended():
    picture = np.full((8, 16), 2.0, np.float32)
    picture[:, 5:] = 7.0
    depth, share = pool(picture, (2, 4))
    assert set(np.unique(depth)) == {2.0, 7.0}
    np.testing.assert_array_equal(share[0], [1.0, 0.75, 1.0, 1.0])


def test_a_cell_of_sky_is_unknown_and_a_rim_of_sky_is_not():
    picture = np.full((1, 4, 8), np.inf, np.float32)
    picture[0, :, :1] = 3.0  # a quarter of the first cell
    picture[0, :, 5:] = 3.0  # three quarters of the second
    depth, _ = pool(picture, (1, 2))
    np.testing.assert_array_equal(depth, [[[0.0, 3.0]]])


def test_grid_resolution_passes_through_and_other_sizes_are_refused():
    picture = np.array([[1.0, np.nan], [np.inf, 2.5]], np.float32)
    np.testing.assert_array_equal(pool(picture, (2, 2))[0], [[1.0, 0.0], [0.0, 2.5]])
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(3, 2\)"):
        memory.pool_depth(picture, (3, 2))

"""Codecs of stored clips, by what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from data_pipelines.clip_codecs import CODECS, U16

DEPTHS = st.one_of(st.floats(np.float32(1e-4), 500, width=32), st.sampled_from([0.0, np.inf]))


@given(
    depth=nps.arrays(np.float32, (2, 3, 4), elements=DEPTHS),
    scale=st.one_of(st.none(), st.floats(0.008, 1.0)),
)
@settings(max_examples=100, deadline=None)
def test_u16_keeps_unknown_sky_and_metres_within_its_error(depth, scale):
    stored, parameters = U16(scale).encode(depth)
    assert stored.dtype == np.uint16
    back = U16.decode(stored, parameters)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back == 0, depth == 0)
    np.testing.assert_array_equal(np.isinf(back), np.isinf(depth))
    known = (depth > 0) & np.isfinite(depth)
    if known.any():
        error = np.abs(back[known].astype(float) - depth[known])
        assert error.max() == parameters["error"]
        step = parameters["scale"]
        bound = np.where(depth[known] < step / 2, step, step / 2)
        assert (error <= bound + 1e-4).all()  # float32 of 500 m has steps of 3e-5 m


def test_u16_by_hand():
    depth = np.float32([[[0.0, np.inf, 0.25, 1.0, 0.01]]])
    stored, parameters = U16(scale=0.25).encode(depth)
    assert stored.tolist() == [[[0, 65535, 1, 4, 1]]]
    assert parameters["scale"] == 0.25 and parameters["error"] == pytest.approx(0.24)


def test_u16_uses_the_whole_range_unless_told():
    stored, parameters = U16().encode(np.float32([[[1.0, 13.1068]]]))
    assert stored.max() == 65534
    assert parameters["scale"] == pytest.approx(13.1068 / 65534)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_u16_refuses_a_scale_that_is_none(scale):
    with pytest.raises(ValueError, match="expected positive metres"):
        U16(scale).encode(np.ones((1, 1, 1), np.float32))


def test_u16_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"found 70 m, expected at most 65\.534 m at scale 0\.001"):
        U16(scale=0.001).encode(np.float32([[[70.0]]]))


def test_codecs_are_registered_by_their_names():
    assert all(codec.name == name for name, codec in CODECS.items())

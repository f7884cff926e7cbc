"""Parameters of another run or export; test_loop.py has the order resume, init_from, scratch."""

import numpy as np
import pytest

from mirage_jax import training
from mirage_jax.training import initialisation


def test_init_from_names_what_is_fresh_and_refuses_other_shapes(tmp_path):
    stored = {"bias": np.zeros(8, np.float32), "scale": np.zeros(2, np.float32)}
    training.export(tmp_path, {"Dense_0": stored}, {})
    abstract = {"Dense_0": {"bias": np.zeros(8, np.float32), "kernel": np.zeros((4, 8))}}
    found, fresh, unused = initialisation.initial_params(tmp_path, abstract)
    assert list(found) == ["Dense_0/bias"]
    assert (fresh, unused) == (["Dense_0/kernel"], ["Dense_0/scale"])
    message = r"'Dense_0/bias': found float32 \(8,\), expected float32 \(3,\)"
    with pytest.raises(ValueError, match=message):
        initialisation.initial_params(tmp_path, {"Dense_0": {"bias": np.zeros(3, np.float32)}})
    with pytest.raises(ValueError, match="no tensor fits"):
        initialisation.initial_params(tmp_path, {"other": np.zeros(8, np.float32)})

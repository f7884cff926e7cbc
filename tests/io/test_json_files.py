"""Numbers that are written as JSON can be read again, whatever they are."""

import numpy as np
import pytest

from mirage_jax.io.json_files import write_json
from mirage_jax.io.strict_json import read_object


def test_what_is_written_is_read_strictly(tmp_path):
    path = tmp_path / "not" / "there" / "a.json"
    found = {
        "psnr": float("inf"),
        "worst": np.float32("nan"),
        3: np.arange(3, dtype=np.int16),
        "rows": ({"mean": np.float64(0.5)}, (True, None)),
    }
    assert write_json(path, found) == path
    assert read_object(path) == {
        "psnr": None,
        "worst": None,
        "3": [0, 1, 2],
        "rows": [{"mean": 0.5}, [True, None]],
    }


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": {1, 2}})
    assert read_object(tmp_path / "a.json") == {"a": 1}

"""Records of a source with their text, as the denoiser trains on them."""

import numpy as np
from ml_dtypes import bfloat16

from data_pipelines import loading
from mirage_jax.training.stages import Joined
from mirage_jax.training.with_text import WithText


def test_every_record_of_a_world_has_its_text_and_batches_keep_its_type():
    texts = {value: np.full((3, 2), value, bfloat16) for value in (1, 2)}
    worlds = [[{"x": np.full(4, value, np.float32)}] * 5 for value in texts]
    source = Joined([WithText(w, t) for w, t in zip(worlds, texts.values(), strict=True)])
    assert len(source) == 10
    with loading.batches(source, batch_size=6, seed=0) as batches:
        batch = next(batches)
    assert batch["text"].shape == (6, 3, 2) and batch["text"].dtype == bfloat16
    np.testing.assert_array_equal(batch["text"][:, 0, 0].astype(np.float32), batch["x"][:, 0])
    assert set(batch["x"][:, 0]) == {1, 2}

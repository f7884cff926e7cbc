"""A source whose elements say where they come from."""

import numpy as np


class Numbers:
    """Random access to {"x": start + index}."""

    def __init__(self, count, start=0):
        self.count, self.start = count, start

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        assert 0 <= index < self.count
        return {"x": np.float32(self.start + index)}

"""Sets of clips mixed by weight, and batches of one set each: in which order clips are drawn."""

import dataclasses
from collections.abc import Sequence

import grain
import numpy as np


@dataclasses.dataclass(frozen=True)
class Mixture:
    """How often a loader draws from the sets that its source is made of, one after the other.

    Every set is shuffled by itself, and gone through once before any of its clips comes again.

    Attributes:
      lengths: clips of each set.
      weights: how often each is drawn from, relative to the others.
      apart: whether a batch holds clips of one set alone, as sets of other picture shapes have to
        (buckets); the weights are then those of batches.
    """

    lengths: tuple[int, ...]
    weights: tuple[float, ...]
    apart: bool = False

    def __post_init__(self) -> None:
        if len(self.lengths) != len(self.weights) or not self.weights:
            raise ValueError(
                f"weights: found {len(self.weights)} for {len(self.lengths)} sets of clips, "
                "expected one for each"
            )
        for name, numbers in (("lengths", self.lengths), ("weights", self.weights)):
            if not all(np.isfinite(number) and number > 0 for number in numbers):
                raise ValueError(f"{name}: found {numbers}, expected positive numbers")

    def orders(self, seed: int) -> list[grain.MapDataset]:
        """Of each set the numbers of its clips in the joined source, endless and shuffled."""
        ends = np.cumsum(self.lengths).tolist()
        return [
            grain.MapDataset.range(end - length, end).seed(seed + number).shuffle().repeat()
            for number, (end, length) in enumerate(zip(ends, self.lengths, strict=True))
        ]

    def mixed(self, parts: Sequence[grain.MapDataset]) -> grain.MapDataset:
        """One stream of several, by the weights."""
        return grain.MapDataset.mix(parts, self.weights)

"""Clips of a source that has them by number, for a loader: nothing is recorded first.

    clips = FiniteClips(make("footage", root="walks", frames=33), "train")
    batches = loading.batches(clips, batch_size=8, seed=0, workers=4)

Good for a look, and for footage that is read faster than it is trained on; recorded clips are read
faster, checked once, and the same when the footage is gone.
"""

from collections.abc import Sequence
from typing import Any

from data_pipelines.clip import REQUIRED_PARTS
from data_pipelines.clip_format import check_fields
from data_pipelines.sources import FiniteSource


class FiniteClips:
    """Random access to a split of a source; elements are those of `loading.ClipSource`."""

    def __init__(self, source: FiniteSource, split: str, fields: Sequence[str] = REQUIRED_PARTS):
        """Finds the clips of `split`.

        Args:
          source: of the clips; picklable, for loader processes.
          split: "train" or "eval".
          fields: names of `Clip`'s fields that elements have.

        Raises:
          ValueError: an unknown field or split, or no clips.
        """
        check_fields(fields)
        self.source, self.fields = source, tuple(fields)
        counts = source.clip_counts(split)
        self._clips = [(world, i) for world, count in counts.items() for i in range(count)]
        if not self._clips:
            raise ValueError(f"source {source.name!r} has no clips in split {split!r}")

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """An element; ValueError, naming the file, for a clip that cannot be read or lacks a
        field.
        """
        clip = self.source.clip(*self._clips[index])
        values = {field: getattr(clip, field) for field in self.fields}
        missing = [field for field, value in values.items() if value is None]
        if missing:
            raise ValueError(f"clip {clip.name!r}, {missing[0]}: found none, expected it")
        return values

    def __repr__(self) -> str:
        return f"FiniteClips({self.source.name}, {len(self)} clips, fields={self.fields})"

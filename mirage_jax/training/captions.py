"""Embedded captions of recorded clips: files like those of their latents, each text in it once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mirage_jax.io.atomic import replacing
from mirage_jax.io.records import record_writer
from mirage_jax.io.text import TextEmbeddings
from mirage_jax.training.latent_cache import cache_files, forget_key

BATCH = 8
"""Texts that are embedded at once."""

_ANEW = "run `mirage encode` with --text_encoder again"


def write_captions(
    path: Path,
    captions: Iterable[str | None],
    embed: Callable[[Sequence[str]], TextEmbeddings],
) -> tuple[int, int]:
    """Writes one file of embedded captions of clips, a batch of texts in memory at a time.

    The first record says which of the others each clip has; texts are stored without padding. The
    file appears when it is whole, and without the key of the one it replaces.

    Args:
      path: file to write.
      captions: of the clips, in their order; None for a clip without.
      embed: texts to embeddings, always `BATCH` of them.

    Returns:
      How many clips have one, and how many different ones there are.
    """
    rows: dict[str, int] = {}
    texts = (rows.setdefault(text, len(rows)) if text else -1 for text in captions)
    row_of_clip = np.fromiter(texts, np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        with record_writer(partial, "group_size:1,zstd:3") as writer:
            writer.write(save({"row_of_clip": row_of_clip}))
            remaining = iter(rows)
            while group := list(itertools.islice(remaining, BATCH)):
                made = embed([*group, *[""] * (BATCH - len(group))])
                embedded = list(zip(made.tokens, made.lengths, strict=True))
                for tokens, length in embedded[: len(group)]:
                    writer.write(save({"tokens": np.ascontiguousarray(tokens[:length])}))
        forget_key(path)
    return int((row_of_clip >= 0).sum()), len(rows)


class Captions:
    """Random access to the embedded captions of a set of clips, in one file or several.

    Args:
      path: the file, from whose name those of several are made, see `latent_cache.cache_files`.

    Raises:
      FileNotFoundError, ValueError: naming the file that is missing or damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        self._files = [_CaptionFile(file) for file in cache_files(path)]
        self._ends = np.cumsum([len(file) for file in self._files])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def of_clip(self, number: int) -> Float[np.ndarray, "l e"] | None:
        """Tokens of the caption of a recorded clip, without padding; None where it has none."""
        which = int(np.searchsorted(self._ends, number, side="right"))
        file = self._files[which]
        return file.of_clip(number - int(self._ends[which]) + len(file))


class _CaptionFile:
    """Random access to what `write_captions` wrote."""

    def __init__(self, path: Path):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no embedded captions; {_ANEW}")
        self.path = path
        try:
            self._records = ArrayRecordDataSource([str(path)])
        except RuntimeError as error:
            raise self._damaged(error) from error
        self._row_of_clip = self._read(0, "row_of_clip")
        rows = len(self._records) - 1
        known = self._row_of_clip.dtype == np.int64 and self._row_of_clip.ndim == 1
        if not known or not (self._row_of_clip < rows).all():
            raise self._damaged(f"found {rows} captions, expected all that clips have")

    def __len__(self) -> int:
        return len(self._row_of_clip)

    def of_clip(self, number: int) -> Float[np.ndarray, "l e"] | None:
        row = int(self._row_of_clip[number])
        if row < 0:
            return None
        tokens = self._read(1 + row, "tokens")
        if tokens.ndim != 2 or not np.isfinite(tokens.astype(np.float32)).all():
            raise self._damaged(f"caption {row}: found {tokens.shape}, or numbers not finite")
        return tokens

    def _read(self, record: int, name: str) -> np.ndarray:
        try:
            found = load(self._records[record])[name]
        except (RuntimeError, SafetensorError, KeyError, IndexError) as error:
            raise self._damaged(error) from error
        return found

    def _damaged(self, why: Any) -> ValueError:
        return ValueError(f"{self.path}: damaged embedded captions ({why}); {_ANEW}")


class WithCaptions:
    """Random access to the records of a source, each with its caption as `text`.

    Args:
      source: records, dicts by field name.
      captions: of the recorded clips.
      prompt: embedded text of clips without a caption; captions are padded with zeros to its
        length.
      skipped: numbers of recorded clips that `source` lacks.

    Raises:
      ValueError: naming the file of captions, if they are of other clips, of other channels or
        longer.
    """

    def __init__(
        self,
        source: Any,
        captions: Captions,
        prompt: Float[np.ndarray, "l e"],
        skipped: Mapping[int, str] | None = None,
    ):
        self._source, self._captions, self._prompt = source, captions, prompt
        left_out = skipped or {}
        clips = len(source) + len(left_out)
        if len(captions) != clips:
            raise ValueError(
                f"{captions.path}: found captions of {len(captions)} clips, expected {clips}; "
                f"{_ANEW}"
            )
        self._numbers = [number for number in range(clips) if number not in left_out]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._source[index], "text": self._text(self._numbers[index])}

    def title(self, index: int) -> str:
        """Names a record, as the source does."""
        return self._source.title(index)

    def _text(self, number: int) -> np.ndarray:
        tokens = self._captions.of_clip(number)
        if tokens is None:
            return self._prompt
        length, channels = self._prompt.shape
        if tokens.shape[1:] != (channels,) or len(tokens) > length:
            raise ValueError(
                f"{self._captions.path}: clip {number}: found a caption of shape {tokens.shape}, "
                f"expected at most {length} tokens of {channels} channels, as prompts have"
            )
        padded = np.zeros(self._prompt.shape, self._prompt.dtype)
        padded[: len(tokens)] = tokens
        return padded

    def __repr__(self) -> str:
        return f"WithCaptions({self._source}, {self._captions.path})"

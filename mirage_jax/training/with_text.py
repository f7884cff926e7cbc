"""Cached clips with the text embeddings of their prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float


class WithText:
    """Random access to the records of a source, all with the same text.

    Args:
      source: records, dicts by field name.
      tokens: embedded text, of any float type, that every record gets as `text`.
    """

    def __init__(self, source: Any, tokens: Float[np.ndarray, "l e"]):
        self._source, self._tokens = source, tokens

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._source[index], "text": self._tokens}

    def __repr__(self) -> str:
        return f"WithText({self._source}, {len(self._tokens)} tokens)"

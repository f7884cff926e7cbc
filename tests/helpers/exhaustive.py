"""How much of what could be tried is tried: a sample in `make test`, all in `make test-long`."""

import os
import random
from collections.abc import Iterable

LONG = os.environ.get("MIRAGE_TEST_LONG", "") == "1"


def sample(cases: Iterable, count: int, seed: int = 0) -> list:
    """`count` of the cases, the same ones every time and in their order; all in the long run."""
    cases = list(cases)
    if LONG or len(cases) <= count:
        return cases
    chosen = sorted(random.Random(seed).sample(range(len(cases)), count))
    return [cases[n] for n in chosen]

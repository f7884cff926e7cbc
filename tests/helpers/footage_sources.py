"""Footage in folders of tests as a source."""

import pytest

from data_pipelines.sources.footage.source import FootageSource
from helpers.made_footage import room

LENS = tuple(map(float, room().intrinsics[0]))


def made(root, **options):
    """Small clips of the footage in a folder, whose lens is that of `room`."""
    options = {"size": 16, "frames": 3, "lens": LENS, **options}
    return FootageSource(root=str(root), **options)


def refusal(source):
    """What the first clip is refused with."""
    with pytest.raises(ValueError, match="expected") as error:
        source.clip(source.worlds("train")[0], 0)
    return str(error.value)

"""Reading folders of footage that tests change between two readings."""

import pytest

from data_pipelines.sources.footage import hm_world, pixelsplat, source
from data_pipelines.sources.footage.source import FootageSource


def forget():
    """What was found in a folder is remembered by its name."""
    for function in (v for m in (source, pixelsplat, hm_world) for v in vars(m).values()):
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def made(root, **options):
    """A source of all scenes in a folder as it is now."""
    forget()
    return FootageSource(root=str(root), **{"eval_share": 0.0, **options})


def first_clip(root, **options):
    """The first clip of the first scene."""
    found = made(root, **options)
    return found.clip(found.worlds("train")[0], 0)


def refusal(root, **options):
    """What the first clip is refused with."""
    with pytest.raises(ValueError, match="expected") as error:
        first_clip(root, **options)
    return str(error.value)

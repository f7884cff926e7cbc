"""Scenes of which recordings are made, stopped, and gone on with."""

from data_pipelines.sources.footage import source as footage
from data_pipelines.sources.footage import survey
from data_pipelines.sources.footage.source import FootageSource
from helpers import made_footage

RECORD = {"workers": 0, "progress": False, "shard_clips": 1}


def forget():
    """As another process begins."""
    survey._recalled.clear()
    for function in vars(footage).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def make_walks(root):
    """Three scenes of 12 frames."""
    for name in ("a", "b", "c"):
        made_footage.colmap(root / name, made_footage.room())
    return root


def source_of(root):
    """Two clips of each scene, none held out."""
    return FootageSource(root=str(root), size=16, frames=6, eval_share=0.0)

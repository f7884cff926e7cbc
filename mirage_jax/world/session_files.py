"""A session as the file of its world."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mirage_jax.world.prompting import with_prompt_saved
from mirage_jax.world.trail import branches_along
from mirage_jax.world.world_file import WorldFile

if TYPE_CHECKING:
    from mirage_jax.world.session import Session


def to_file(session: Session) -> WorldFile:
    """`Session.to_file`."""
    timeline, size, fps = session.timeline, session.model.size, session.options.fps
    path = session._trail.camera_path(session.world, size, fps)
    file = timeline.to_file(session._file)
    trails = {name: session._trails[timeline.marked(name)] for name in timeline.marks}
    branches = branches_along(file.branches, trails, size, fps)
    kind = session.model.conditioner.kind
    made = with_prompt_saved(file.provenance, session.prompt, kind)
    return dataclasses.replace(
        file, world=session.world, camera_path=path, branches=branches, provenance=made
    )

"""Marks and branches of a world file: states of one world under names, in one file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from mirage_jax.world.world_file import Branch, CameraPath, WorldFile


def with_branch(
    file: WorldFile, name: str, created_from: str = "", *, parent: str | None = None
) -> WorldFile:
    """The file with its present world as a branch, too, from which it can be continued.

    Raises:
      ValueError: if there is a branch of that name, or none named `parent`.
    """
    if name in names(file):
        raise ValueError(f"branch: found {name!r} twice, expected another name")
    if parent is not None:
        branch_of(file, parent)
    frame = int(file.world.frames) - 1
    branch = Branch(name, frame, parent, created_from, file.world, file.camera_path, file.entities)
    return dataclasses.replace(file, branches=(*file.branches, branch))


def at_branch(file: WorldFile, name: str) -> WorldFile:
    """The file with the state of a branch as its world; that of before is no longer in it.

    Raises:
      ValueError: if there is no such branch, or it is a mark, which only names a frame.
    """
    branch = branch_of(file, name)
    if branch.world is None:
        raise ValueError(f"branch {name!r}: found a mark, expected one with a world of its own")
    return dataclasses.replace(
        file, world=branch.world, camera_path=branch.camera_path, entities=branch.entities
    )


def without_branch(file: WorldFile, name: str) -> WorldFile:
    """The file without a branch; those made on it are then its parent's.

    Raises:
      ValueError: if there is no such branch.
    """
    gone = branch_of(file, name)
    kept = [
        dataclasses.replace(branch, parent=gone.parent) if branch.parent == name else branch
        for branch in file.branches
        if branch is not gone
    ]
    return dataclasses.replace(file, branches=tuple(kept))


def branch_of(file: WorldFile, name: str) -> Branch:
    """The branch of that name; ValueError, saying which there are, if there is none."""
    for branch in file.branches:
        if branch.name == name:
            return branch
    known = ", ".join(names(file)) or "none"
    raise ValueError(f"branch: found {name!r}, expected one of those there are: {known}")


def names(file: WorldFile) -> list[str]:
    """Names of all branches and marks."""
    return [branch.name for branch in file.branches]


def in_order(branches: Iterable[Branch]) -> tuple[Branch, ...]:
    """The branches, each after its parent; those whose parent is not among them have none."""
    left = {branch.name: branch for branch in branches}
    ordered: dict[str, Branch] = {}

    def place(branch: Branch) -> None:
        left.pop(branch.name)
        parent = branch.parent
        if parent in left:
            place(left[parent])
        known = parent if parent in ordered else None
        ordered[branch.name] = dataclasses.replace(branch, parent=known)

    while left:
        place(next(iter(left.values())))
    return tuple(ordered.values())


def shortened(path: CameraPath | None, frames: int) -> CameraPath | None:
    """The first cameras of a path; None if it has not so many."""
    if path is None or len(path.times) < frames:
        return None
    return dataclasses.replace(
        path,
        cam2world=path.cam2world[:frames],
        intrinsics=path.intrinsics[:frames],
        times=path.times[:frames],
    )

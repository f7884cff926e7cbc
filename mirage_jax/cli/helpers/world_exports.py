"""A world's memory and cameras as files of other tools, which the name of the file chooses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from mirage_jax.io import outputs, point_files, scene_files
from mirage_jax.world.viewpoints import Viewpoints
from mirage_jax.world.world_file import WorldFile

FORMS = ".ply, .glb, transforms as .json (with a .ply beside it), or a folder for a COLMAP model"


def targets(out: Path) -> dict[Path, outputs.FileKind]:
    """The files that will be written, and their kinds.

    Raises:
      ValueError: if the name is of no kind that there is.
    """
    kinds = {".ply": point_files.PLY, ".glb": point_files.GLB, ".json": scene_files.TRANSFORMS}
    if out.suffix in kinds:
        files = {out: kinds[out.suffix]}
        return files | ({out.with_suffix(".ply"): point_files.PLY} if out.suffix == ".json" else {})
    if out.suffix and not out.is_dir():
        raise ValueError(f"{out}: found {out.suffix!r}, expected {FORMS}")
    return {out / name: scene_files.COLMAP for name in scene_files.COLMAP_FILES}


def write(
    out: Path, file: WorldFile, cameras: Viewpoints | None, colours: UInt8[np.ndarray, "n 3"]
) -> int:
    """Writes what `targets` says; gives how many points there are.

    Args:
      out: the file or folder.
      file: the world.
      cameras: to be written; a PLY file has none.
      colours: of all slots of the memory.

    Raises:
      ValueError: if there is nothing to be written that the kind of file must have.
    """
    mem = file.world.bank
    valid = np.asarray(mem.valid)
    xyz, shown = np.asarray(mem.xyz)[valid], colours[valid]
    if cameras is None:
        _write_ply(out, file, xyz, shown)
        return len(xyz)
    poses, lens, frames = cameras.cam2world, cameras.intrinsics, cameras.frames
    if out.suffix == ".glb":
        if not len(xyz):
            raise ValueError("the memory is empty, and a glTF file has at least one point")
        height, width = cameras.size
        view = 2 * float(np.arctan(height / 2 / lens[-1, 1]))
        point_files.write_glb(out, xyz, shown, poses, view, width / height)
    elif out.suffix == ".json":
        points = out.with_suffix(".ply")
        _write_ply(points, file, xyz, shown)
        record = scene_files.cameras(poses, lens, cameras.size, frames, "images/")
        scene_files.write_transforms(out, record, points.name)
    else:
        record = scene_files.cameras(poses, lens, cameras.size, frames)
        scene_files.write_colmap(out, record, xyz, shown)
    return len(xyz)


def _write_ply(
    path: Path, file: WorldFile, xyz: np.ndarray, colours: UInt8[np.ndarray, "n 3"]
) -> None:
    mem = file.world.bank
    valid = np.asarray(mem.valid)
    names = ("frame", "time", "confidence", "size", "seen")
    more = {name: np.asarray(getattr(mem, name))[valid] for name in names}
    point_files.write_ply(path, xyz, colours, more)

"""HM-World: subjects that leave the picture and come back, in two videos that follow each other.

    SAMPLE/cond.mp4, tgt.mp4             # what is seen first, and what comes right after it
    SAMPLE/cond_mask.mp4, tgt_mask.mp4   # optional: bright (white or red) where a subject is
    SAMPLE/camera.json                   # Unreal's matrices, camera to world, centimetres
    SAMPLE/check.json, character.json    # optional: when subjects leave and enter the picture
    SAMPLE/caption.txt, licence.txt      # optional
    caption.txt                          # optional: a line for each sample, NAME and its caption

A sample is one scene: the frames of cond.mp4, then those of tgt.mp4. The lens is not in the files
and must be given. camera.json has a matrix for each frame, or the 149 of the published set, whose
own reader takes the second matrix for the first and repeats the last, 75 for each video of 77, and
repeats the ends of each: frames with a repeated matrix are left out, with their time. Movers all
have the id 1, since masks do not tell subjects apart. Exits and entries go into the provenance.
Licence of the published set: Apache-2.0.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from data_pipelines.sources.footage import maps
from data_pipelines.sources.footage.cameras import make_scene, read_cameras, take
from data_pipelines.sources.footage.cutting import native_fps
from data_pipelines.sources.footage.files import below, licence, read_text, walk, within
from data_pipelines.sources.footage.scene import Read, ReadOptions, Scene
from mirage_jax.io.camera_files import CameraRecord
from mirage_jax.io.camera_files.parsing import read_json
from mirage_jax.io.depth_maps import resample
from mirage_jax.io.video_frames import VideoFrames

LAYOUT = "folders of HM-World with cond.mp4, tgt.mp4 and camera.json"
LICENCE = "Apache-2.0"

_PARTS = ("cond", "tgt")
_CAMERAS, _CAPTION = "camera.json", "caption.txt"
_PUBLISHED = (149, 77)  # matrices of camera.json, frames of each video
_BRIGHT = 127  # of the red channel, beyond which a mask shows a subject
_TOLD = re.compile(r"exit|entr|enter|leav|in_?frame", re.IGNORECASE)


def scenes(root: Path) -> tuple[str, ...]:
    """Samples by their place below `root`."""
    if not root.is_dir():
        return ()
    return tuple(
        below(root, folder)
        for folder in walk(root)
        if (folder / _CAMERAS).is_file()
        and any((folder / f"{part}.mp4").is_file() for part in _PARTS)
    )


def open_scene(root: Path, name: str, options: ReadOptions) -> Scene:
    """One sample; ValueError naming the file for what is missing or cannot be read."""
    folder = within(root, name)
    videos = [VideoFrames(folder / f"{part}.mp4") for part in _PARTS]
    first, second = videos
    if second.size != first.size:
        raise ValueError(
            f"{second.path}: found pictures of {second.size[1]}x{second.size[0]}, expected "
            f"{first.size[1]}x{first.size[0]} as {first.path.name}"
        )
    path = folder / _CAMERAS
    record = read_cameras(path, options, first.size, "hm_world")
    lengths = [len(video) for video in videos]
    record, chosen = _on_frames(record, path, lengths)
    times = np.append(first.times, first.times[-1] + 1 / native_fps(first.times) + second.times)
    return make_scene(
        name,
        record,
        path,
        _joined(videos, chosen),
        times[chosen],
        options,
        movers=_masks(folder, videos, chosen),
        left_out={"no camera of its own": sum(lengths) - len(chosen)},
        caption=_caption(folder, root),
        licence=licence(LICENCE, folder, root),
        provenance={
            "cond_frames": int((chosen < lengths[0]).sum()),
            **_told(folder, lengths, times),
        },
    )


def _on_frames(
    record: CameraRecord, path: Path, lengths: Sequence[int]
) -> tuple[CameraRecord, Int[np.ndarray, " n"]]:
    """The cameras that are a frame's own, and the numbers of those frames in both videos."""
    content: Any = read_json(path)
    for part, length in zip(_PARTS, lengths, strict=True):
        given = content.get(f"{part}_cam")
        if given is not None and len(given) != length:
            raise ValueError(
                f"{path}: {part}_cam: found {len(given)} matrices, expected {length}, one for each "
                f"frame of {part}.mp4"
            )
    if len(record) == sum(lengths):
        return record, np.arange(sum(lengths))
    if (len(record), *lengths) == (_PUBLISHED[0], _PUBLISHED[1], _PUBLISHED[1]):
        # Matrix 0 is not of its frame either: that of the next is taken for it.
        cameras = np.arange(1, _PUBLISHED[0])
        return take(record, cameras), cameras + np.where(cameras < 75, 1, 3)
    raise ValueError(
        f"{path}: found {len(record)} matrices, expected {sum(lengths)}, one for each of the "
        f"{lengths[0]} frames of cond.mp4 and the {lengths[1]} of tgt.mp4"
    )


def _joined(videos: Sequence[VideoFrames], chosen: Int[np.ndarray, " n"]) -> Read:
    """Reads frames of a scene from videos that follow each other."""

    def read(wanted: Sequence[int]) -> Iterator[np.ndarray]:
        numbers, start = chosen[list(wanted)], 0
        for video in videos:
            own = numbers[(numbers >= start) & (numbers < start + len(video))] - start
            if len(own):
                yield from video.read(own.tolist())
            start += len(video)

    return read


def _masks(
    folder: Path, videos: Sequence[VideoFrames], chosen: Int[np.ndarray, " n"]
) -> Read | None:
    paths = [folder / f"{part}_mask.mp4" for part in _PARTS]
    if not any(path.is_file() for path in paths):
        return None
    masks = [VideoFrames(path) for path in paths]
    for mask, video in zip(masks, videos, strict=True):
        if len(mask) != len(video):
            frame = min(len(mask), len(video))
            lacks = "mask" if frame == len(mask) else "picture"
            raise ValueError(
                f"{mask.path}: found {len(mask)} masks, expected {len(video)}, one for each frame "
                f"of {video.path.name}: frame {frame} has no {lacks}"
            )
    read = _joined(masks, chosen)

    def movers(wanted: Sequence[int]) -> Iterator[np.ndarray]:
        for mask in read(wanted):
            yield resample((mask[..., 0] > _BRIGHT).astype(np.int32), videos[0].size)

    return movers


def _told(folder: Path, lengths: Sequence[int], times: np.ndarray) -> dict[str, Any]:
    """What check.json and character.json say of exits and entries, as plain JSON."""
    told: dict[str, Any] = {}
    for name in ("check.json", "character.json"):
        path = folder / name
        if not path.is_file():
            continue
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"{path}: found a {type(content).__name__}, expected an object")
        if any(f"{part}_check" in content for part in _PARTS):
            told.setdefault("events", []).extend(_events(path, content, lengths, times))
        elif (rest := _about_exits(content)) is not None:
            told[path.stem] = rest
    return told


def _events(
    path: Path, content: Mapping[str, Any], lengths: Sequence[int], times: np.ndarray
) -> list[dict[str, Any]]:
    """Of {"cond_check": {ACTOR: {CHARACTER: [{"frame", "inFrame"}]}}, "tgt_check": ...}."""
    found, start = [], 0
    for part, length in zip(_PARTS, lengths, strict=True):
        for subject, entry in _entries(path, content.get(f"{part}_check", {}), f"{part}_check"):
            frame, shown = entry.get("frame"), entry.get("inFrame")
            if isinstance(frame, bool) or not (isinstance(frame, int) and isinstance(shown, bool)):
                raise ValueError(
                    f"{path}: {part}_check: {subject}: found {entry!r}, expected a frame and "
                    "inFrame, true or false"
                )
            if not 0 <= frame < length:
                raise ValueError(
                    f"{path}: {part}_check: {subject}: found frame {frame}, expected one of the "
                    f"{length} of {part}.mp4"
                )
            event = {"subject": subject, "video": part, "frame": frame, "in_frame": shown}
            found.append({**event, "seconds": float(times[start + frame])})
        start += length
    return sorted(found, key=lambda event: event["seconds"])


def _entries(path: Path, actors: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for actor, characters in actors.items():
            for character, entries in characters.items():
                for entry in entries:
                    yield f"{actor}/{character}", dict(entry)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: {where}: found {str(actors)[:60]}, expected lists of frames by actor and "
            "character"
        ) from error


def _about_exits(content: Any) -> Any:
    """The branches of an object under names that speak of exits and entries; None without."""
    if isinstance(content, list):
        kept = [part for part in map(_about_exits, content) if part is not None]
        return kept or None
    if not isinstance(content, dict):
        return None
    found = {
        key: value if _TOLD.search(key) else _about_exits(value) for key, value in content.items()
    }
    return {key: value for key, value in found.items() if value is not None} or None


def _caption(folder: Path, root: Path) -> str | None:
    own = maps.caption(folder / _CAPTION)
    above = [place / _CAPTION for place in (folder.parent, root) if place != folder]
    listed = next((path for path in above if own is None and path.is_file()), None)
    return own if listed is None else _captions(listed).get(folder.resolve().name)


@functools.lru_cache(maxsize=4)
def _captions(path: Path) -> Mapping[str, str]:
    """Captions by sample, of lines that begin with the sample's name."""
    lines = (re.split(r"[\s:,|]+", line, maxsplit=1) for line in read_text(path).splitlines())
    return {words[0]: words[1].strip() for words in lines if len(words) == 2 and words[1].strip()}

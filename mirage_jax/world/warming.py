"""Compiling all that a session runs before anybody walks."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from mirage_jax.memory import edit, regions
from mirage_jax.world import controls, plan
from mirage_jax.world.chunk_step import ChunkStep
from mirage_jax.world.editing import edit_world
from mirage_jax.world.model import WorldModel
from mirage_jax.world.prompting import prompted
from mirage_jax.world.state import World

if TYPE_CHECKING:
    from mirage_jax.world.session import Session


def warm_up(session: Session, progress: Callable[[str, float], None]) -> None:
    """Runs everything that a session may run once, on states that are thrown away.

    Args:
      session: stays as it is.
      progress: told what comes next, and which share of all is done.
    """
    world, camera = session._present(), session.camera
    jobs: list[tuple[str, Callable[[], Any]]] = [
        ("chunks", lambda: _walk(session, world, session.model)),
        ("walls", lambda: _walls(session, world)),
        ("read-out", lambda: plan.read_out(session.model, world.bank, camera)),
        ("colours", lambda: _colours(session, world)),
        ("last frame", lambda: plan.decode_frame(session.model.encoder, world.latent)),
        ("edits", lambda: _edits(session, world, camera)),
    ]
    text = session.model.text
    if text is not None:  # whatever the prompt will be
        plain, guided = (prompted(session.model, text, text, scale) for scale in (1.0, 2.0))
        jobs.append(("prompts", lambda: _walk(session, world, plain)))
        jobs.append(("guidance", lambda: _walk(session, world, guided)))
    for number, (name, job) in enumerate(jobs):
        progress(name, number / len(jobs))
        jax.block_until_ready(job())
    progress("done", 1.0)


def denoise_steps(session: Session) -> tuple[float, ...]:
    """Seconds of each denoising step of a chunk from here, see `ChunkStep.denoise_steps`."""
    still = np.tile(session.pose, (session.model.chunk_frames - 1, 1, 1))
    step = ChunkStep(session.model)
    return step.denoise_steps(session._present(), session._cameras(still), session._key)


def chunk_seconds(session: Session, repeats: int = 3) -> float:
    """Seconds that a chunk from here takes, the median of several, once everything is compiled;
    the session stays where it is."""
    beside = session.branch()
    return statistics.median(beside.step().stages["total"] for _ in range(repeats))


def _walk(session: Session, world: World, model: WorldModel) -> None:
    """Chunks and edits of states of every shape that there can be: preceding latents grow at first,
    and an edit may leave them out."""
    step, size, cells = ChunkStep(model), model.size, model.conditioner.cells
    still = np.tile(session.pose, (model.chunk_frames - 1, 1, 1))
    camera = session._cameras(still)
    seen, found = set(), [world]
    while found:
        world = found.pop()
        shapes = (int(world.frames) == 1, *(np.shape(leaf) for leaf in jax.tree.leaves(world)))
        if shapes in seen:
            continue
        seen.add(shapes)
        generated = step.generate(world, camera, session._key, 0)
        found.append(step.remember(world, generated, camera)[0])
        for mask in (world.bank.valid, np.zeros(world.bank.capacity, bool)):
            delete = functools.partial(edit.delete, region=mask)
            found.append(edit_world(world, delete, size, cells=cells)[0])


def _walls(session: Session, world: World) -> Any:
    start = np.zeros(3, np.float32)
    return controls.free_distance(
        world.bank, start, controls.unit_directions(), session.options.radius
    )


def _colours(session: Session, world: World) -> None:
    plan.TokenColours(world.latent.shape[-1]).add(world.latent, session.picture)


def _edits(session: Session, world: World, camera: Any) -> Any:
    """Every edit of regions of every kind, of none of the elements."""
    far = np.full(3, 1e6, np.float32)
    nothing = np.zeros(world.bank.capacity, bool)
    shown = plan.shown_elements(session.model, world.bank, camera)
    spaces = (regions.Box(far, far), regions.Sphere(far, np.float32(1)))
    by, done = np.eye(4, dtype=np.float32), []
    for place in (*spaces, shown & nothing):
        done += [
            edit.delete(world.bank, place),
            edit.move(world.bank, place, by),
            edit.duplicate(world.bank, place, by),
            edit.pin(world.bank, place),
        ]
    done += [edit.swap(world.bank, space, space) for space in spaces]
    return done

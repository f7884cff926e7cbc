"""Clips with walking bodies: seen in the first half, due again in the second, a while later.

Between the two halves of a clip, simulated frames can be left out: the camera waits where it was
turned away, bodies walk on, and `Clip.times` has the gap. In half of the clips the camera looks
away and comes back, as in all others; in half it stays, and bodies walk out of view or behind
what hides them.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from data_pipelines.clip import Clip
from data_pipelines.sources import bodies, paths
from data_pipelines.sources.bodies import Walkers
from data_pipelines.sources.body_kinds import KINDS, LOOKS, look_alikes
from data_pipelines.sources.ground import OPEN_GROUND, Ground
from data_pipelines.sources.options import option
from data_pipelines.sources.stage import Placed, Stage

WATCH = "watch"
"""Kind of camera path: it stays where it is, but for a slow drift."""
MOST_BODIES = 4

WATCHING = 0.5  # share of clips
BEHIND = 0.7  # share of these that look for a body that walls hide
DRIFT = (0.4, 12.0)  # metres and degrees that a watching camera moves at most
SPEEDS = (0.5, 1.6)  # metres per second
TURN_RATES = (0.3, 1.0)  # radians per second, of those that turn
STANDING, TURNING = 0.1, 0.25  # shares of bodies
NEAR, REACH = 1.5, 4.5  # metres between a camera and a body that it is to see well
CLEAR = 1.4  # metres that bodies keep from the camera, where the camera is shown
LEAST_SEEN, LEAST_HIDDEN, LEAST_DUE = 5, 4, 4  # frames
PROPOSALS, ROUNDS = 96, 2


@dataclasses.dataclass(frozen=True)
class LivingOptions:
    """Options of sources that can have walking bodies."""

    bodies: int = option(
        0, "walking bodies in every clip; 0 = none, as without this option", 0, MOST_BODIES
    )
    skip: int = option(4, "simulated frames left out between the halves, at least", 0, 1000)
    skip_spread: int = option(96, "so many more at most, even on a logarithmic scale", 0, 1000)
    due: float = option(0.8, "share of clips that look for a body that comes again", 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Scene:
    """All that moves in a clip of F frames.

    Attributes:
      cam2world: poses of the camera, [F, 4, 4].
      times: seconds, [F].
      walkers: states of the bodies, [F, B].
      kinds, looks: of the bodies.
      path: kind of camera path.
    """

    cam2world: Float[np.ndarray, "f 4 4"]
    times: Float[np.ndarray, " f"]
    walkers: Walkers
    kinds: tuple[str, ...]
    looks: tuple[str, ...]
    path: str


def sample_skip(rng: np.random.Generator, options: LivingOptions) -> int:
    """Frames to leave out between the halves of a clip."""
    low, high = options.skip, options.skip + options.skip_spread
    drawn = np.exp(rng.uniform(np.log(low + 1.0), np.log(high + 2.0))) - 1
    return int(np.clip(drawn, low, high))


def watching_path(
    rng: np.random.Generator,
    frames: int,
    start: Float[np.ndarray, "2"],
    yaw: float,
    is_free: paths.IsFree,
) -> paths.Path | None:
    """A camera that hardly moves, or None where there is no room for that."""
    shift = bodies.directions(np.array(rng.uniform(-np.pi, np.pi))) * rng.uniform(0, DRIFT[0])
    turn = np.deg2rad(rng.uniform(-DRIFT[1], DRIFT[1]))
    share = np.linspace(0.0, 1.0, frames)
    share = share**2 * (3.0 - 2.0 * share)
    positions = start + share[:, None] * shift
    if not is_free(positions).all():
        return None
    return paths.Path(positions, yaw + share * turn, WATCH)


def sample_camera(
    rng: np.random.Generator,
    frames: int,
    start: Float[np.ndarray, "2"],
    yaw: float,
    is_free: paths.IsFree,
    kind: str,
) -> paths.Path | None:
    """A path of `kind` that leaves and returns, or half of the time one that stays."""
    if rng.random() < WATCHING:
        return watching_path(rng, frames, start, yaw, is_free)
    return paths.sample_path(rng, frames, start, yaw, is_free, kind)


def frame_numbers(frames: int, skip: int) -> np.ndarray:
    """Numbers of a clip's frames among all simulated ones: after the middle one, `skip` are out."""
    numbers = np.arange(frames)
    return np.where(numbers > frames // 2, numbers + skip, numbers)


def sample_scene(
    rng: np.random.Generator,
    options: LivingOptions,
    ground: Ground,
    path: paths.Path,
    cam2world: Float[np.ndarray, "f 4 4"],
    fps: float,
    half_angle: float,
) -> Scene | str:
    """Bodies for a camera path, or why they found no place.

    Without any, nothing is left out between the halves.

    Args:
      rng: randomness.
      options: how many bodies, how many frames left out, how often one has to come again.
      ground: where they walk.
      path: of the camera, from above.
      cam2world: its poses.
      fps: simulated frames per second.
      half_angle: of the view across, radians.
    """
    if not options.bodies:
        return _empty_scene(path, cam2world, fps)
    numbers = frame_numbers(len(cam2world), sample_skip(rng, options))
    wanted = bool(rng.random() < options.due)
    view = _View(ground, path, cam2world, numbers, 1.0 / fps, half_angle)
    chosen: list[tuple[str, str, Walkers]] = []
    for index in range(options.bodies):
        kind, look = _another(rng, [(kind, look) for kind, look, _ in chosen])
        found = view.sample(rng, kind, comes_again=wanted and index == 0)
        if found is None:
            return "no body comes again" if index == 0 and wanted else "no room for a body"
        chosen.append((kind, look, found))
    kinds, looks, walks = zip(*chosen, strict=True)
    names = [field.name for field in dataclasses.fields(Walkers)]
    together = Walkers(*(np.stack([getattr(w, name) for w in walks], 1) for name in names))
    return Scene(cam2world, numbers / fps, together, kinds, looks, path.kind)


def _empty_scene(path: paths.Path, cam2world: np.ndarray, fps: float) -> Scene:
    frames = len(cam2world)
    nobody = Walkers(np.zeros((frames, 0, 2)), *(np.zeros((frames, 0)) for _ in range(3)))
    return Scene(cam2world, np.arange(frames) / fps, nobody, (), (), path.kind)


def _another(rng: np.random.Generator, taken: list[tuple[str, str]]) -> tuple[str, str]:
    """A kind and a look that nobody has yet; half of the time like the first body's."""
    while True:
        kind, look = str(rng.choice(tuple(KINDS))), str(rng.choice(LOOKS))
        if taken and rng.random() < 0.5:
            kind, look = taken[0][0], str(rng.choice(look_alikes(taken[0][1])))
        if (kind, look) not in taken:
            return kind, look


@dataclasses.dataclass(frozen=True)
class _View:
    """What a clip's camera sees of bodies, from above."""

    ground: Ground
    path: paths.Path
    cam2world: np.ndarray
    numbers: np.ndarray
    seconds: float
    half_angle: float

    def sample(self, rng: np.random.Generator, kind: str, comes_again: bool) -> Walkers | None:
        """The states of one body at the clip's frames, None where none was found."""
        radius = np.full(PROPOSALS, KINDS[kind].radius)
        behind_wanted = comes_again and self.path.kind == WATCH and rng.random() < BEHIND
        for _ in range(ROUNDS):
            start = self._propose(rng)
            free = self.ground.is_free(start.positions, radius)
            if not free.any():
                continue
            start, reach = start[free], radius[free]
            walks = bodies.walk(self.ground, start, reach, int(self.numbers[-1]) + 1, self.seconds)
            good = self._clear(walks)
            if comes_again:
                again, behind = self._comes_again(walks)
                good &= again & (behind | (not behind_wanted))
            if good.any():
                return walks[self.numbers, np.flatnonzero(good)[0]]
        return None

    def _propose(self, rng: np.random.Generator) -> Walkers:
        """Bodies somewhere ahead of the camera as it is early in the clip."""
        frame = rng.integers(0, len(self.cam2world) // 4, PROPOSALS)
        angle = self.path.yaws[frame] + rng.uniform(-1.2, 1.2, PROPOSALS) * self.half_angle
        away = rng.uniform(NEAR, REACH, PROPOSALS)[:, None]
        draw = rng.random(PROPOSALS)
        speeds = np.where(draw < STANDING, 0.0, rng.uniform(*SPEEDS, PROPOSALS))
        turning = (draw >= STANDING) & (draw < STANDING + TURNING)
        rates = rng.uniform(*TURN_RATES, PROPOSALS) * rng.choice([-1.0, 1.0], PROPOSALS)
        return Walkers(
            self.path.positions[frame] + away * bodies.directions(angle),
            rng.uniform(-np.pi, np.pi, PROPOSALS),
            speeds,
            np.where(turning, rates, 0.0),
        )

    def _clear(self, walks: Walkers) -> np.ndarray:
        gap = np.linalg.norm(walks.positions[self.numbers] - self.path.positions[:, None], axis=-1)
        return gap.min(0) >= CLEAR

    def _comes_again(self, walks: Walkers) -> tuple[np.ndarray, np.ndarray]:
        """Whether a body is seen, then hidden for a while, then due; and hidden by walls mostly."""
        middle = len(self.cam2world) // 2
        # While frames are left out, the camera stays as the middle one has it.
        waiting = np.minimum(np.arange(self.numbers[-1] + 1), middle)
        poses = self.cam2world[waiting].copy()
        poses[self.numbers] = self.cam2world
        where = poses, walks.positions, self.half_angle
        near = bodies.visible_from(self.ground, *where, REACH)
        shown = bodies.visible_from(self.ground, *where, np.inf)
        ahead = bodies.visible_from(OPEN_GROUND, *where, np.inf)
        early, late = near[: middle + 1], near[self.numbers[middle + 1 :]]
        steps = np.arange(len(shown))[:, None]
        last = middle - early[::-1].argmax(0)
        first = self.numbers[middle + 1] + late.argmax(0)
        unseen = (steps > last) & (steps < first) & ~shown
        hidden = unseen.sum(0)
        again = (early.sum(0) >= LEAST_SEEN) & (late.sum(0) >= LEAST_DUE)
        again &= hidden >= np.maximum(LEAST_HIDDEN, (first - last - 1) / 2)
        return again, 2 * (unseen & ahead).sum(0) > hidden


def placed(scene: Scene, frame: int) -> tuple[Placed, ...]:
    """The bodies of a scene at a frame."""
    poses = bodies.body2world(scene.walkers[frame], scene.kinds)
    return tuple(
        Placed(number, kind, look, pose)
        for number, (kind, look, pose) in enumerate(
            zip(scene.kinds, scene.looks, poses, strict=True), 1
        )
    )


def film(
    stage: Stage,
    scene: Scene,
    intrinsics: Float[np.ndarray, "4"],
    *,
    world: str,
    source: str,
    seed: int,
    fps: float,
    name: str,
) -> Clip:
    """Renders a scene, with the exact state of every body."""
    views = [stage.view(pose, placed(scene, frame)) for frame, pose in enumerate(scene.cam2world)]
    video, depth, mover_ids = (np.stack(arrays) for arrays in zip(*views, strict=True))
    return Clip(
        video=video,
        depth=depth,
        intrinsics=np.tile(intrinsics.astype(np.float32), (len(views), 1)),
        cam2world=scene.cam2world,
        mover_ids=mover_ids,
        times=scene.times,
        bodies=bodies.to_bodies(scene.walkers, scene.kinds, scene.looks, mover_ids),
        world=world,
        source=source,
        trajectory=scene.path,
        seed=seed,
        gamma=1.0,
        fps=fps,
        name=name,
    )

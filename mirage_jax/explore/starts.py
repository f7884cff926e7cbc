"""What a walk can begin from: pictures, a saved world, a picture from the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from mirage_jax.geometry import Camera
from mirage_jax.world import WorldModel
from mirage_jax.world.prompting import Prompt
from mirage_jax.world.session import Session, SessionOptions
from mirage_jax.world.world_file import read_world_file


@dataclasses.dataclass(frozen=True)
class Start:
    """One of the server's own starts.

    Attributes:
      name: for people.
      begin: makes a session there.
    """

    name: str
    begin: Callable[[], Session]


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A prompt in words and as tokens [n, e]; without guidance there is no negative text.

    Attributes:
      prompt: in words.
      text, negative_text: its tokens.
    """

    prompt: Prompt
    text: Float[np.ndarray, "n e"]
    negative_text: Float[np.ndarray, "n e"] | None


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Texts that a model's denoiser can be told.

    Attributes:
      embed: gives the tokens [n, e] of a text, the same n for all; ValueError for one that it
        cannot embed.
      text: the one to begin with.
      negative_text: that guidance leads away from.
      guidance: to begin with; 1 = none.
      known: some that can be embedded, to choose from.
    """

    embed: Callable[[str], Float[np.ndarray, "n e"]]
    text: str
    negative_text: str = ""
    guidance: float | int = 1.0
    known: tuple[str, ...] = ()

    @property
    def first(self) -> Prompt:
        """The one to begin with."""
        return Prompt(self.text, self.negative_text, self.guidance)

    def embedded(self, prompt: Prompt) -> Embedded:
        """A prompt as the model takes it, which may take seconds; ValueError if it cannot be."""
        negative = None if prompt.guidance == 1 else self.embed(prompt.negative_text)
        return Embedded(prompt, self.embed(prompt.text), negative)


@dataclasses.dataclass(frozen=True)
class Starts:
    """A model and where one can begin to walk with it.

    Attributes:
      model: that makes the frames.
      options: of all sessions.
      starts: the first of which is where a new page begins.
      fov: degrees across the shorter side of pictures from pages.
      denoise_steps: seconds of each denoising step, measured before anyone walks.
      prompts: what the model can be told; None for one without text.
      kinds: models by the kind of their memory, `model` the first; empty where it is the only one.
      adapts: whether each walk's pace follows what the machine can do, from `options.fps` on.
    """

    model: WorldModel
    options: SessionOptions
    starts: tuple[Start, ...]
    fov: float = 90.0
    denoise_steps: tuple[float, ...] = ()
    prompts: Prompts | None = None
    adapts: bool = False
    kinds: Mapping[str, WorldModel] = dataclasses.field(default_factory=dict)

    def begin(self, number: int) -> Session:
        """A session at a start; ValueError if there is none of that number."""
        if number >= len(self.starts):
            raise ValueError(f"start: found {number}, expected less than {len(self.starts)}")
        return self.begun(self.starts[number].begin())

    def begin_from(self, picture: UInt8[np.ndarray, "h w 3"], camera: Camera) -> Session:
        """A session in a world that begins with a picture."""
        return self.begun(Session(self.model, picture, options=self.options, camera=camera))

    def load(self, path: Path) -> Session:
        """A session in a saved world, which knows what prompt it was made with but does not follow
        it yet; ValueError or OSError if it cannot be read."""
        session = Session.load(self._model_of(path), path, options=self.options)
        return session if session.prompt else self.begun(session)

    def _model_of(self, path: Path) -> WorldModel:
        """Which of the models has the memory that is in a file; the first if it does not say."""
        if not self.kinds:
            return self.model
        generated = read_world_file(path).provenance.get("generated")
        kind = generated.get("conditioner") if isinstance(generated, Mapping) else None
        known = (model for model in self.kinds.values() if model.conditioner.kind == kind)
        return next(known, self.model)

    def begun(self, session: Session) -> Session:
        """A session with the options of all, which knows which prompt the model follows."""
        session.options = self.options
        if self.prompts is not None:
            session.prompt = self.prompts.first
        return session

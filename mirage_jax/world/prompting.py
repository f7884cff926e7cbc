"""What is shown, by a text, while a model runs: prompts and guidance that compile nothing anew, and
that saved worlds keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mirage_jax.settings import Settings, from_mapping, setting
from mirage_jax.world.model import WorldModel


@dataclasses.dataclass(frozen=True)
class Prompt(Settings):
    """What a model was told, in words."""

    text: str = setting("", "What is shown.")
    negative_text: str = setting("", "What guidance leads away from.")
    guidance: float | int = setting(1.0, "Classifier-free guidance; 1 = none.", least=0)


_STORED = {"text": "prompt", "negative_text": "negative_prompt", "guidance": "cfg_scale"}
"""Names in `provenance["generated"]` of a world file."""


def saved_prompt(provenance: Mapping[str, Any]) -> Prompt | None:
    """What a world's file says that its model was told last; None if nothing.

    Raises:
      ValueError: naming the field, if it is no prompt.
    """
    generated = provenance.get("generated")
    if not isinstance(generated, Mapping) or generated.get("prompt") is None:
        return None
    found = {name: generated.get(stored) for name, stored in _STORED.items()}
    given = {name: value for name, value in found.items() if value is not None}
    return from_mapping(Prompt, given, "provenance: generated: prompt")


def with_prompt_saved(
    provenance: Mapping[str, Any], prompt: Prompt | None, conditioner: str
) -> dict[str, Any]:
    """The provenance of a world's file with the prompt, and the conditioner by which readers look
    whether a model can continue the world."""
    known = provenance.get("generated")
    generated = {"conditioner": conditioner} | dict(known if isinstance(known, Mapping) else {})
    if prompt is not None:
        generated |= {stored: getattr(prompt, name) for name, stored in _STORED.items()}
    return {**provenance, "generated": generated}


def prompted(
    model: WorldModel,
    text: Float[Array | np.ndarray, "n e"],
    negative_text: Float[Array | np.ndarray, "n e"] | None = None,
    guidance: float | int = 1.0,
) -> WorldModel:
    """The model with another prompt.

    Two programs do for all: one with guidance, whatever its strength, and one without, which takes
    half the time. Texts of the same length n share them.

    Args:
      model: whose denoiser was trained with text.
      text: embedded prompt.
      negative_text: embedded prompt that guidance leads away from.
      guidance: classifier-free guidance; 1 = none, and the negative text is then not looked at.

    Raises:
      ValueError: if the denoiser takes no text, or one of another width, a negative text is missing
        or the guidance is no number from 0.
    """
    width = model.denoiser.text_width
    if not width:
        raise ValueError("prompt: found one, expected none, as the denoiser was trained without")
    if not (np.isfinite(guidance) and guidance >= 0):
        raise ValueError(f"guidance: found {guidance}, expected a number from 0")
    guided = guidance != 1
    if guided and negative_text is None:
        raise ValueError(f"guidance: found {guidance} without a negative text, expected one or 1")
    for name, tokens in (("text", text), ("negative text", negative_text)):
        if tokens is not None and (np.ndim(tokens) != 2 or np.shape(tokens)[-1] != width):
            raise ValueError(f"{name}: found shape {np.shape(tokens)}, expected [n, {width}]")
    changes: dict[str, Any] = {
        "text": jnp.asarray(text),
        "negative_text": jnp.asarray(negative_text) if guided else None,
        "guidance": jnp.float32(guidance) if guided else None,
        "sampler": dataclasses.replace(model.sampler, cfg_scale=1.0),
    }
    return model.replace(**changes)  # type: ignore[attr-defined, no-any-return]

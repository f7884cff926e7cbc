"""Flags of commands that walk: what a walk starts from, and what its prompt is."""

from __future__ import annotations

from absl import flags

from mirage_jax.cli.helpers.flag_types import PathName, Real

IMAGE = flags.DEFINE(
    PathName(), "image", "", "Picture to start from; white shows through transparent pixels."
)
CLIP = flags.DEFINE(
    PathName(), "clip", "", "Footage whose pictures are all written to memory; starts at the last."
)
CLIP_SCENE = flags.DEFINE_string("clip_scene", "", "Which scene of a --clip that has several.")
WORLD = flags.DEFINE(PathName(), "world", "", "Saved world to go on from.")
FOV = flags.DEFINE(
    Real(above=0, below=180), "fov", 90.0, "Degrees across the picture's middle, of --image."
)
PROMPT = flags.DEFINE_string("prompt", None, "What is shown, for denoisers with text.")
NEGATIVE = flags.DEFINE_string("negative_prompt", "", "What --cfg_scale leads away from.")
CFG_SCALE = flags.DEFINE(
    Real(least=0), "cfg_scale", 1.0, "Classifier-free guidance by the prompt; 1 = none."
)
TEXT = flags.DEFINE(PathName(), "text", "", "File of embedded prompts.")

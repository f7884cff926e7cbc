"""mirage encode: recorded clips to latents, prompts to embeddings, once and for all runs.

    mirage encode --config=experiments/wan22_5b_memory.py --source=walks --workdir=runs/wan
    mirage encode --config=experiments/wan22_5b_memory.py --source=walks --workdir=runs/wan \
        --tokenizer=umt5/tokenizer.json --text_encoder=exports/text

Reads <workdir>/worlds (`mirage record`) and <workdir>/model/encoder, writes <workdir>/latents: a
file for every --file_clips clips, which appears when it is whole. Killed, the same command goes on
with the files that are missing. On several hosts the same command runs on each, and each encodes
every n-th file on all its devices. Latents are keyed by the encoder's weights, the clips and the
settings: others are made anew, never mixed in. Clips that cannot be read are left out, named and
counted, up to --config.loading.skip_share. `mirage train` does the same by itself (its stage
"cache").
With --text_encoder the prompts of the config's worlds are embedded too, and the captions that clips
have of their own, for --config.text.captions: in files of --file_clips clips as well, shared and
resumed like those of latents, and keyed by the text encoder's and the tokenizer's files.
"""

from __future__ import annotations

import functools
from pathlib import Path

from absl import flags
from rich.console import Console

from mirage_jax.cli.helpers import (
    build,
    common,
    config_check,
    input_check,
    process_flags,
    prompts,
    short_flags,
)
from mirage_jax.cli.helpers.flag_types import Integer, PathName
from mirage_jax.io.workdir import Workdir
from mirage_jax.parallel.processes import first_alone

_FILE_CLIPS = flags.DEFINE(
    Integer(least=4), "file_clips", 256, "Clips of a file at most, a multiple of 4."
)
_KIND = flags.DEFINE_enum(
    "encode_for", "latent", build.MEMORIES, "Memory of the denoiser that is to be trained."
)
_PROMPTS_TO = flags.DEFINE(
    PathName(), "prompts_to", "", "File of embedded prompts; '' = latents/text.safetensors."
)

FLAG_MODULES = (process_flags.__name__, prompts.__name__)
"""Helpers whose flags the command has too, for its help."""

SHORT_FLAGS = (short_flags.SOURCE,)


def main() -> None:
    from mirage_jax.cli.helpers.encoding import PromptFiles, encode_captions, encode_recordings

    config = common.resolve_config()
    config_check.check(config)
    if bool(prompts.TOKENIZER.value) != bool(prompts.TEXT_ENCODER.value):
        raise common.UserError("--tokenizer and --text_encoder: found one, expected both or none")
    if _PROMPTS_TO.value and not prompts.TEXT_ENCODER.value:
        raise common.UserError("--prompts_to: found no --tokenizer and --text_encoder beside it")
    workdir = Workdir(common.workdir())
    texts = None
    if prompts.TEXT_ENCODER.value:
        texts = PromptFiles(
            Path(_PROMPTS_TO.value or workdir.latents("", "").parent / "text.safetensors"),
            Path(prompts.TOKENIZER.value),
            Path(prompts.TEXT_ENCODER.value),
        )
        texts.check(config)
    common.prepare_jax(config, workdir)
    process_flags.connect(workdir)
    input_check.check_training(config, workdir, ("cache",), _KIND.value)
    input_check.check_recordings(config, workdir, held_out=False)
    console = Console()
    encode_recordings(
        config,
        workdir,
        console,
        _KIND.value,
        splits=("train", "eval"),
        file_clips=_FILE_CLIPS.value,
    )
    if texts is not None:
        first_alone("prompts", functools.partial(texts.encode, config, console))
        encode_captions(
            config,
            workdir,
            console,
            texts.tokenizer,
            texts.encoder,
            file_clips=_FILE_CLIPS.value,
        )


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()

"""One process of several that embed the captions of a work directory, for a test.

python tests/helpers/caption_processes.py WORKDIR COORDINATOR PROCESSES PROCESS

Texts become as many tokens as they have words, each of it the length of the text, so that no text
encoder is needed.
"""

import sys
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from mirage_jax.cli.helpers import encoding, prompts
from mirage_jax.io.text import TextEmbeddings
from mirage_jax.io.workdir import Workdir
from mirage_jax.parallel import processes


def embed(texts):
    lengths = np.array([len(text.split()) for text in texts])
    tokens = np.zeros((len(texts), max(lengths.max(), 1), 3), np.float32)
    for row, text in enumerate(texts):
        tokens[row, : lengths[row]] = len(text)
    return TextEmbeddings(tuple(texts), tokens, lengths)


def main(root: str, coordinator: str, count: str, number: str) -> None:
    if int(count) > 1:
        processes.initialize(coordinator, processes=int(count), process=int(number), timeout=300)
    prompts.text_embedder = lambda tokenizer, encoder: embed
    folder = Path(root)
    config = ConfigDict({"worlds": ("procedural",)})
    files = (folder / "tokenizer.json", folder / "text.safetensors")
    console = Console(width=300)
    encoding.encode_captions(config, Workdir(folder), console, *files, file_clips=1)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Which decoder makes the pictures: the autoencoder's own, or a cheaper one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mirage_jax.io.exports import stored_architecture
from mirage_jax.weights import fingerprint
from mirage_jax.world.latent_encoder import LatentEncoder

DECODERS = ("vae", "linear", "tiny", "auto")
PART = "tiny_decoder"
"""Of a folder of exported parts."""


def with_decoder(encoder: LatentEncoder, folder: Path | None, name: str) -> LatentEncoder:
    """The encoder with another decoder.

    Args:
      encoder: as it was trained.
      folder: of the exported parts, "encoder" among them; None where there is no such folder.
      name: "vae", the autoencoder's own; "linear", its linear path alone; "tiny", the part
        "tiny_decoder"; "auto", that one where there is one, else the linear path if the autoencoder
        has one, else its own.

    Raises:
      FileNotFoundError, ValueError: if there is no such decoder, or it was trained for the latents
        of another encoder.
    """
    if name not in DECODERS:
        raise ValueError(f"decoder: found {name!r}, expected one of {', '.join(DECODERS)}")
    if name == "auto":
        name = "linear" if encoder.vae.linear_path else "vae"
        name = "tiny" if folder and (folder / PART).exists() else name
    if name == "linear":
        return encoder.with_linear_decoder()
    if name == "vae":
        return encoder
    if folder is None:
        raise ValueError("decoder: found 'tiny' for a released checkpoint, expected 'vae'")
    path = folder / PART
    check(folder)
    return encoder.with_tiny_decoder(path)


def trained_for(encoder: Path) -> dict[str, Any]:
    """What the export of a tiny decoder says of the encoder whose latents it decodes."""
    return {"encoder": fingerprint(encoder)}


def check(folder: Path) -> None:
    """Raises ValueError if the tiny decoder of a folder of parts is not for the encoder there."""
    path, encoder = folder / PART, folder / "encoder"
    made = stored_architecture(path)
    if "encoder" in made and made["encoder"] != fingerprint(encoder):  # older ones do not say
        raise ValueError(
            f"{path}: field encoder: found a decoder of another encoder's latents, expected of "
            f"{encoder}: train it anew (mirage train --stage=tiny_decoder), or decode with the "
            "autoencoder's own (--decoder=vae)"
        )

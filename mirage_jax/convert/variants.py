"""Wan transformers that take more than noisy latents and a text, by the tensors they have for it.

None of them runs here: naming them says why, instead of a list of tensors without a place.
"""

from __future__ import annotations

from pathlib import Path

from mirage_jax.convert.placement import Tensors

_BY_TENSORS = (
    (
        ("audio_injector.", "casual_audio_encoder.", "audio_proj."),
        "speech-to-video (Wan2.2-S2V)",
        "embeddings of speech",
    ),
    (
        ("face_adapter.", "face_encoder.", "motion_encoder.", "pose_patch_embedding."),
        "character animation (Wan2.2-Animate)",
        "pictures of a face and of poses",
    ),
    (("control_adapter.",), "camera control by ray maps (Fun-Control-Camera)", "a map of rays"),
    (("ref_conv.",), "control by a reference picture (Fun-Control)", "latents of that picture"),
    (
        ("img_emb.", "condition_embedder.image_embedder."),
        "image-to-video (Wan2.1-I2V-14B)",
        "CLIP features of the first picture, and its latents beside the noisy ones",
    ),
)
_KEYS_OF_PICTURES = (".k_img.", ".add_k_proj.")
_IMAGE_TO_VIDEO = _BY_TENSORS[-1]


def refuse_variant(tensors: Tensors) -> None:
    """Raises ValueError if a transformer is of a kind that needs more than the one here takes.

    Args:
      tensors: of the transformer, under original names.
    """
    for beginnings, kind, needs in _BY_TENSORS:
        first = next((name for name in tensors if name.startswith(beginnings)), None)
        if first is None and kind == _IMAGE_TO_VIDEO[1]:
            first = next((n for n in tensors if any(part in n for part in _KEYS_OF_PICTURES)), None)
        if first is not None:
            raise ValueError(_message(kind, f"it has {first}", needs))
    embedding, head = tensors.get("patch_embedding.weight"), tensors.get("head.head.weight")
    if embedding is None or head is None or len(embedding.shape) != 5:
        return
    channels, values = int(embedding.shape[1]), 1
    for size in embedding.shape[2:]:
        values *= int(size)
    made = int(head.shape[0]) // max(values, 1)
    if made and channels != made:
        raise ValueError(
            _message(
                "image-to-video or control by channels beside the noisy ones (as Wan2.2-I2V-A14B)",
                f"it reads {channels} channels and predicts {made}",
                "a mask and latents of given pictures beside the noisy ones",
            )
        )


def expert_note(path: Path) -> str:
    """For one of the two transformers of Wan2.2-A14B, as its place or name tells: what that means.

    "" for any other.
    """
    beside = path.name == "transformer" and (path.parent / "transformer_2").is_dir()
    named = "high_noise" in path.name or "low_noise" in path.name
    if not (beside or named or path.name == "transformer_2"):
        return ""
    return (
        f"{path}: one of two transformers, for high or for low noise; the sampler here runs one "
        "for all noise levels"
    )


def _message(kind: str, seen: str, needs: str) -> str:
    return (
        f"found a transformer for {kind}: {seen}. It needs {needs}, which the denoiser here does "
        "not take; expected a text-to-video model or TI2V-5B, where given frames are clean latents"
    )

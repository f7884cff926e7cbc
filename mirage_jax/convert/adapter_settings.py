"""Alpha and variant of a low-rank adapter as files store them apart from its tensors.

PEFT writes adapter_config.json, diffusers the same fields as JSON in the metadata of the file, and
kohya's scripts, musubi-tuner and others single metadata.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from mirage_jax.convert.tensor_files import ADAPTER_CONFIG, TensorFiles
from mirage_jax.io.strict_json import parse_object

_DIFFUSERS = "lora_adapter_metadata"
_ALPHAS = ("alpha", "lora_alpha", "ss_network_alpha")
_MODULE = re.compile(r"[\w.]+")


@dataclasses.dataclass(frozen=True)
class AdapterSettings:
    """What scales the pairs of a low-rank adapter.

    Attributes:
      alpha: of all modules that `patterns` does not name; None if it is not stored.
      patterns: last parts of a module's name -> its alpha.
      rank_stabilized: whether alpha is divided by the square root of the rank (arXiv 2312.03732).
    """

    alpha: float | None = None
    patterns: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rank_stabilized: bool = False

    def alpha_of(self, module: str) -> float | None:
        """The alpha of a module; None if it is not stored."""
        for pattern, alpha in self.patterns.items():
            if module == pattern or module.endswith(f".{pattern}"):
                return alpha
        return self.alpha


def adapter_settings(files: TensorFiles) -> AdapterSettings:
    """What the config or the metadata of an adapter say.

    Raises:
      ValueError: naming the field that is no number, or the variant (DoRA, ...) that is not read.
    """
    if _DIFFUSERS in files.metadata:
        return _of_peft(_unprefixed(files.metadata[_DIFFUSERS]), f"metadata {_DIFFUSERS}")
    if "peft_type" in files.config or "lora_alpha" in files.config:
        return _of_peft(files.config, ADAPTER_CONFIG)
    for name in _ALPHAS:
        text = files.metadata.get(name, "None")
        if text != "None":
            return AdapterSettings(_number(text, f"metadata {name}"))
    return AdapterSettings()


def _unprefixed(text: str) -> dict[str, Any]:
    """Fields of "transformer.lora_alpha" and the like without the name of the model's part."""
    try:
        fields = parse_object(text)
    except ValueError as error:
        raise ValueError(f"metadata {_DIFFUSERS}: not a JSON object ({error})") from error
    others = [name for name in fields if name.startswith("text_encoder")]
    return {name.split(".", 1)[-1]: value for name, value in fields.items() if name not in others}


def _of_peft(fields: Mapping[str, Any], where: str) -> AdapterSettings:
    kind = fields.get("peft_type") or "LORA"
    if kind != "LORA":
        raise ValueError(f"{where}: peft_type: found {kind!r}, expected 'LORA'")
    if fields.get("use_dora"):
        raise ValueError(f"{where}: use_dora: found DoRA, expected LoRA")
    patterns: dict[str, float] = {}
    stored = fields.get("alpha_pattern") or {}
    if not isinstance(stored, dict):
        raise ValueError(f"{where}: alpha_pattern: found {stored!r}, expected alphas by module")
    for name, value in stored.items():
        if not _MODULE.fullmatch(name):
            raise ValueError(
                f"{where}: alpha_pattern: found {name!r}, expected the name of a module"
            )
        patterns[name] = _number(value, f"{where}: alpha_pattern {name}")
    alpha = fields.get("lora_alpha")
    return AdapterSettings(
        None if alpha is None else _number(alpha, f"{where}: lora_alpha"),
        patterns,
        bool(fields.get("use_rslora")),
    )


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"{where}: found {value!r}, expected a number above 0")
    return number

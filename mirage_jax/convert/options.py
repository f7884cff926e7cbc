"""What a checkpoint does not say of itself when it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mirage_jax.convert.placement import Tensors
from mirage_jax.convert.presets import DENOISERS, SCORE
from mirage_jax.convert.tensor_files import CONFIG, TensorFiles

_HEAD_WIDTH = 128  # of every Wan release


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """What does not follow from the tensors of released checkpoints.

    Attributes:
      model: key of `presets.DENOISERS`, which fixes the next two; "" for none.
      heads: attention heads; 0 if unknown.
      branch_layers: blocks that the hints of a branch belong to.
      alpha: of low-rank adapters that store none; None if unknown.
      context: kind of conditioner (`world.conditioners.KINDS`) of a branch; "" if unknown.
      strengths: what each adapter's updates are multiplied by before they are merged, one number
        for each or one for all; () for 1.
      part: of a file that holds several networks, one of `all_in_one.PARTS`; "" for the
        transformer.
    """

    model: str = ""
    heads: int = 0
    branch_layers: tuple[int, ...] = ()
    alpha: float | None = None
    context: str = ""
    strengths: tuple[float, ...] = ()
    part: str = ""

    def with_config(self, opened: Sequence[TensorFiles]) -> ImportOptions:
        """With what a config.json beside the tensors says of heads and of a branch's blocks.

        Raises:
          ValueError: naming the config, if it says something else or no whole numbers.
        """
        options = self
        for files in opened:
            for field in ("num_attention_heads", "num_heads"):
                if field in files.config:
                    options = options._agreeing("heads", _whole(files, field, 1)[0], files)
            if files.config.get("vace_layers"):
                options = options._agreeing("branch_layers", _whole(files, "vace_layers"), files)
        return options

    def _agreeing(self, name: str, stored: Any, files: TensorFiles) -> ImportOptions:
        given = getattr(self, name)
        if given and given != stored:
            raise ValueError(
                f"{name}: found {given}, expected {stored}, which {files.path / CONFIG} says"
            )
        return dataclasses.replace(self, **{name: stored})

    def resolved(self, tensors: Tensors) -> ImportOptions:
        """With the fields of the model.

        Raises:
          ValueError: naming the field that the model contradicts, or that is unknown.
        """
        if self.model:
            preset = self._preset()
            for name in ("heads", "branch_layers"):
                given = getattr(self, name)
                if given and given != preset[name]:
                    raise ValueError(
                        f"{name}: found {given}, expected {preset[name]}, which {self.model} has"
                    )
            layers = preset["branch_layers"]
            context = self.context or (SCORE if layers else "")
            return dataclasses.replace(
                self, heads=preset["heads"], branch_layers=layers, context=context
            )
        if not self.heads:
            raise ValueError(
                "heads: found no number in the tensors; give it (--heads) or a model (--model)"
                f"{self._hint(tensors)}"
            )
        return self

    @property
    def depth(self) -> int:
        """Blocks of the model; 0 if there is none."""
        return int(self._preset()["depth"]) if self.model else 0

    def strengths_of(self, count: int) -> tuple[float, ...]:
        """One for each adapter; ValueError if there are neither so many nor one."""
        if len(self.strengths) <= 1:
            return (self.strengths or (1.0,)) * count
        if len(self.strengths) != count:
            raise ValueError(
                f"strengths: found {len(self.strengths)} numbers for {count} adapters, expected "
                "one for each (--lora_strength, in the order of --source) or one for all"
            )
        return self.strengths

    def _preset(self) -> dict[str, Any]:
        if self.model not in DENOISERS:
            raise ValueError(f"model: found {self.model!r}, expected one of {', '.join(DENOISERS)}")
        return DENOISERS[self.model]

    def _hint(self, tensors: Tensors) -> str:
        embedding = tensors.get("patch_embedding.bias", tensors.get("vace_patch_embedding.bias"))
        width = int(embedding.shape[0]) if embedding is not None else 0
        if not width or width % _HEAD_WIDTH:
            return ""
        heads = width // _HEAD_WIDTH
        return f"; --heads={heads} if it is a Wan release, of {_HEAD_WIDTH} channels a head"


def _whole(files: TensorFiles, field: str, least: int = 0) -> tuple[int, ...]:
    """A whole number of a config.json, or a list of them."""
    found = files.config[field]
    numbers = found if isinstance(found, list) else [found]
    if not all(type(number) is int and number >= least for number in numbers):
        raise ValueError(
            f"{files.path / CONFIG}: {field}: found {found!r}, expected a number from {least}"
        )
    return tuple(numbers)

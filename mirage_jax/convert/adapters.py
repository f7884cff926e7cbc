"""Adapters as their makers name and scale them: which tensor of a model each part changes.

Read are pairs of low rank (`lora_A`, `lora_B` or `lora_down`, `lora_up`), whole differences of a
weight (`diff`), a bias (`diff_b`) or a modulation (`diff_m`), and alphas beside them. Modules are
called as in the model or in diffusers, with points or underscores, after any of `_PREFIXES`; which
module an underscored name stands for is looked up among the model's own. Formats: PEFT, diffusers,
ComfyUI, kohya's sd-scripts and musubi-tuner, DiffSynth, lightx2v.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from mirage_jax.convert.adapter_settings import adapter_settings
from mirage_jax.convert.lazy_tensors import LazyTensor
from mirage_jax.convert.placement import finite
from mirage_jax.convert.tensor_files import TensorFiles
from mirage_jax.convert.wan_dit import diffusers_name

_PAIR = re.compile(
    r"(.+?)\.(lora_A|lora_down|lora\.down|lora_B|lora_up|lora\.up)(?:\.([^.]+))?\.weight"
)
_DOWN = ("lora_A", "lora_down", "lora.down")
_ALPHA = re.compile(r"(.+)\.(?:lora_)?alpha")
_DIFFERENCE = re.compile(r"(.+)\.(diff|diff_b|diff_m)")
_REFUSED = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "lora_mid": "LoCon with a third factor",
    "lora_embedding_": "LoRA of an embedding",
    "lora_B.bias": "LoRA with a bias",
    "lora_up.bias": "LoRA with a bias",
    "set_weight": "a replaced weight",
    "reshape_weight": "a weight of another shape",
}
"""Parts of names by which an adapter is known that is no sum of pairs and differences."""

_PREFIXES = (
    *("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "pipe."),
    *("module.", "model.", "dit.", "vace.", "unet.", "lora_unet_", "lora_transformer_", "lycoris_"),
)
_ELSEWHERE = {
    r"lora_te\d*_.*|text_encoder\d*\..*|text_encoders\..*": "of a text encoder",
    r".*(img_emb|image_embedder|[kv]_img|add_[kv]_proj|added_k).*": "of an image-to-video model",
}
"""Modules that adapters may have and text-to-video models lack, and what they are part of."""

_MODULATION = ".modulation"
_ENDS = {"diff": ".weight", "diff_b": ".bias", "diff_m": _MODULATION}


@dataclasses.dataclass(frozen=True)
class LowRank:
    """Adds `scale` times the product of two matrices to a weight.

    Attributes:
      names: of `down` and `up` in their file.
      down: (rank, inputs), or of a convolution (rank, inputs, *window).
      up: (outputs, rank), or (outputs, rank, 1, ...).
      scale: alpha / rank, or as the adapter has it.
    """

    names: tuple[str, str]
    down: LazyTensor
    up: LazyTensor
    scale: float

    @property
    def rank(self) -> int:
        return int(self.up.shape[1])

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless it fits a weight of this shape, reading no value."""
        down, up = tuple(self.down.shape), tuple(self.up.shape)
        wanted = (shape[0] if shape else 0, self.rank, *(1,) * (len(up) - 2))
        expected_down = (self.rank, *shape[1:])
        for name, found, expected in zip(
            self.names, (down, up), (expected_down, wanted), strict=True
        ):
            if found != expected:
                raise ValueError(f"tensor {name}: found shape {found}, expected {expected}")

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """What is added, in float32."""
        down = _floats(self.names[0], self.down).reshape(self.rank, -1)
        up = _floats(self.names[1], self.up).reshape(-1, self.rank)
        return np.float32(self.scale) * (up @ down).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Difference:
    """Adds `scale` times a tensor of the same shape."""

    name: str
    tensor: LazyTensor
    scale: float = 1.0

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless it has this shape."""
        if tuple(self.tensor.shape) != shape:
            raise ValueError(
                f"tensor {self.name}: found shape {tuple(self.tensor.shape)}, expected {shape}"
            )

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """What is added, in float32."""
        return np.float32(self.scale) * _floats(self.name, self.tensor)


def _floats(name: str, tensor: LazyTensor) -> np.ndarray:
    return finite({name: tensor}, name).astype(np.float32)


Update = LowRank | Difference


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What a file changes of a model.

    Attributes:
      path: of the file.
      updates: by name of the model's tensor.
      unused: tensors of the file that change nothing here: name -> why.
      alphas: where alphas come from, "stored" or "given" -> which there are.
      strength: what every update is multiplied by, in their scales already.
    """

    path: Path
    updates: Mapping[str, Update]
    unused: Mapping[str, str]
    alphas: Mapping[str, tuple[float, ...]]
    strength: float = 1.0

    def summary(self) -> str:
        """In words: how many updates of which kind, and their scales."""
        pairs = [update for update in self.updates.values() if isinstance(update, LowRank)]
        ranks = sorted({pair.rank for pair in pairs})
        words = []
        if pairs:
            listed = ", ".join(
                f"alpha {' or '.join(f'{alpha:g}' for alpha in alphas)} ({source})"
                for source, alphas in self.alphas.items()
            )
            words.append(f"{len(pairs)} updates of rank {' or '.join(map(str, ranks))}, {listed}")
        if len(pairs) < len(self.updates):
            words.append(f"{len(self.updates) - len(pairs)} whole differences")
        if self.strength != 1:
            words.append(f"strength {self.strength:g}")
        return f"{self.path}: " + ", ".join(words)


def is_adapter(tensors: Iterable[str]) -> bool:
    """Whether any tensor is a part of an adapter, of whatever kind."""
    return any(
        _PAIR.fullmatch(name) or _DIFFERENCE.fullmatch(name) or _refused(name) for name in tensors
    )


def _refused(name: str) -> str:
    return next((kind for part, kind in _REFUSED.items() if f".{part}" in name), "")


def read_adapter(
    files: TensorFiles, model: Iterable[str], alpha: float | None, strength: float = 1.0
) -> Adapter:
    """What an adapter changes of a model, reading no value but alphas.

    Args:
      files: the adapter.
      model: names of the model's tensors, original ones.
      alpha: of pairs for which the file stores none; None if unknown.
      strength: what every update is multiplied by.

    Raises:
      ValueError: naming the file and the tensor that is of another kind of adapter, belongs to no
        module of the model or to several, has no partner or no alpha.
    """
    try:
        return _read(files, frozenset(model), alpha, strength)
    except ValueError as error:
        raise ValueError(f"{files.path}: {error}") from error


@dataclasses.dataclass
class _Parts:
    """The tensors of a file by what they are of which module of the model.

    Attributes:
      halves: names of the tensors of pairs, by "down" and "up".
      spellings: how the file calls the module of a pair.
      alphas: beside pairs.
      differences: names of tensors, by name of the model's tensor.
      unused: of modules that are elsewhere, and why.
    """

    halves: dict[str, dict[str, str]]
    spellings: dict[str, str]
    alphas: dict[str, float]
    differences: dict[str, str]
    unused: dict[str, str]


def _read(
    files: TensorFiles, model: frozenset[str], alpha: float | None, strength: float
) -> Adapter:
    settings, parts = adapter_settings(files), _parts(files, model)
    updates: dict[str, Update] = {
        target: Difference(name, files.tensors[name], strength)
        for target, name in parts.differences.items()
    }
    alphas: dict[str, set[float]] = defaultdict(set)
    for module, names in parts.halves.items():
        down, up = _halves(files, names)
        rank, own = int(up.shape[1]), parts.alphas.pop(module, None)
        stored = settings.alpha_of(parts.spellings[module]) if own is None else own
        number = alpha if stored is None else stored
        if number is None:
            raise ValueError(
                "alpha: the file stores none, and the update is alpha / rank times B A; expected a "
                "number (--lora_alpha: rank times the scale that the released loader would be "
                f"given, {rank} for tools that multiply by 1 where there is no alpha)"
            )
        alphas["given" if stored is None else "stored"].add(number)
        target = f"{module}.weight"
        if target not in model:
            raise ValueError(f"tensor {names['down']!r}: the model has no {target} to add it to")
        if target in updates:
            raise ValueError(f"{target}: found two updates of it, expected one")
        root = settings.rank_stabilized and own is None
        scale = strength * number / (math.sqrt(rank) if root else rank)
        updates[target] = LowRank((names["down"], names["up"]), down, up, scale)
    for module in parts.alphas:
        raise ValueError(f"{module}: found an alpha, expected a pair of low rank beside it")
    if not updates:
        raise ValueError(f"found nothing that changes the model, expected {_expected(model)}")
    found_alphas = {source: tuple(sorted(numbers)) for source, numbers in alphas.items()}
    return Adapter(files.path, updates, parts.unused, found_alphas, strength)


def _parts(files: TensorFiles, model: frozenset[str]) -> _Parts:
    spelled, adapters = _spellings(model), set()
    parts = _Parts(defaultdict(dict), {}, {}, {}, dict(files.unused))
    for name, tensor in files.tensors.items():
        if kind := _refused(name):
            raise ValueError(
                f"tensor {name!r}: found {kind}, expected pairs of low rank (LoRA) or whole "
                "differences; merge it with the tool that made it"
            )
        pair, difference = _PAIR.fullmatch(name), _DIFFERENCE.fullmatch(name)
        found = pair or difference or _ALPHA.fullmatch(name)
        if found is None:
            raise ValueError(f"tensor {name!r}: expected {_expected(model)}")
        if reason := _elsewhere(found[1]):
            parts.unused[name] = reason
            continue
        module = _module(name, found[1], spelled, model)
        if pair:
            adapters.add(pair[3])
            half, halves = "down" if pair[2] in _DOWN else "up", parts.halves[module]
            if half in halves:
                raise ValueError(f"tensor {name!r}: found {halves[half]!r} for it as well")
            halves[half], parts.spellings[module] = name, pair[1]
        elif difference:
            target = module if module in model else module + _ENDS[difference[2]]
            if target not in model:
                raise ValueError(f"tensor {name!r}: the model has no {target} to add it to")
            if target in parts.differences:
                raise ValueError(f"{target}: found two updates of it, expected one")
            parts.differences[target] = name
        else:
            parts.alphas[module] = _number(name, tensor)
    if len(adapters) > 1:
        listed = ", ".join(sorted(str(adapter) for adapter in adapters))
        raise ValueError(f"found the adapters {listed} in one file, expected one")
    return parts


def _halves(files: TensorFiles, names: Mapping[str, str]) -> tuple[LazyTensor, LazyTensor]:
    """Both tensors of a pair; ValueError if one is missing or they do not fit each other."""
    for half, other in (("down", "up"), ("up", "down")):
        if half not in names:
            raise ValueError(
                f"tensors missing: {_partner(names[other])}, the other half of {names[other]}"
            )
    down, up = (files.tensors[names[half]] for half in ("down", "up"))
    for half, tensor in (("down", down), ("up", up)):
        if len(tensor.shape) < 2 or 0 in tensor.shape:
            raise ValueError(
                f"tensor {names[half]}: found shape {tuple(tensor.shape)}, expected a matrix"
            )
    rank = int(up.shape[1])
    if down.shape[0] != rank:
        raise ValueError(
            f"tensor {names['down']}: found shape {tuple(down.shape)}, expected "
            f"{(rank, *down.shape[1:])} as {names['up']} is of rank {rank}"
        )
    return down, up


def _partner(name: str) -> str:
    for a, b in (("lora_A", "lora_B"), ("lora_down", "lora_up"), ("lora.down", "lora.up")):
        for half, other in ((a, b), (b, a)):
            if f".{half}." in name:
                return name.replace(f".{half}.", f".{other}.")
    return name


def _number(name: str, tensor: LazyTensor) -> float:
    values = np.asarray(tensor).astype(np.float64).reshape(-1)
    if values.size != 1 or not np.isfinite(values[0]) or values[0] <= 0:
        raise ValueError(f"tensor {name!r}: found {values[:4]}, expected one number above 0")
    return float(values[0])


def _elsewhere(module: str) -> str:
    return next((what for pattern, what in _ELSEWHERE.items() if re.fullmatch(pattern, module)), "")


def _spellings(model: Iterable[str]) -> dict[str, set[str]]:
    """Every spelling of a module -> the modules that are spelled so."""
    found: dict[str, set[str]] = defaultdict(set)

    def add(spelling: str, module: str) -> None:
        found[spelling].add(module)
        found[spelling.replace(".", "_")].add(module)

    for name in model:
        add(_of_module(name), _of_module(name))
        add(_of_module(diffusers_name(name)), _of_module(name))
        if name.endswith(_MODULATION):
            owner = name.removesuffix(_MODULATION)
            add(owner, owner)  # "blocks.0.diff_m" is of blocks.0.modulation
    return found


def _of_module(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".bias")


def _module(
    name: str, spelling: str, spelled: Mapping[str, set[str]], model: frozenset[str]
) -> str:
    """The module that a spelling stands for, without the prefixes before it."""
    rest: str | None = spelling
    while rest is not None:
        modules = spelled.get(rest, set())
        if len(modules) > 1:
            raise ValueError(
                f"tensor {name!r}: stands for {' and for '.join(sorted(modules))}, expected one"
            )
        if modules:
            return next(iter(modules))
        rest = next((rest.removeprefix(p) for p in _PREFIXES if rest.startswith(p)), None)
    raise ValueError(f"tensor {name!r}: expected {_expected(model)}")


def _expected(model: Iterable[str]) -> str:
    modules = sorted(
        {
            re.sub(r"\d+", "N", _of_module(name), count=1)
            for name in model
            if name.startswith("blocks.")
        }
    )
    return (
        "lora_A and lora_B or lora_down and lora_up, diff, diff_b or alpha of a module of the "
        f"model, such as {', '.join(modules)}"
    )

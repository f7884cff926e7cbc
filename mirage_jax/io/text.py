"""Prompts: to token ids, and as files of text embeddings made once.

The short way needs neither tokenizer nor text encoder: embeddings of the prompts that a project
uses are computed once, anywhere, and kept in one safetensors file (`save_embeddings`,
`load_embeddings`). The long way, `Tokenizer` and then `nn.text_encoder.TextEncoder`, makes them.
"""

from __future__ import annotations

import dataclasses
import html
import importlib
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mirage_jax.io.atomic import read_unchanged, replacing
from mirage_jax.io.outputs import FileKind, safetensors_metadata
from mirage_jax.io.sealed import FIELD, UNSEALED, check_seal, seal
from mirage_jax.io.strict_json import parse_object

TEXT_LENGTH = 512
"""Tokens of a text in Wan's denoisers, padding included."""

_LONGEST = 1 << 20

FORMAT = "mirage-text-2"
_READABLE = ("mirage-text-1", FORMAT)  # the first has no checksum

EMBEDDINGS = FileKind(
    "file of text embeddings",
    lambda path: any(
        f'"{known}"' in safetensors_metadata(path).get("text", "") for known in _READABLE
    ),
)
_PAD, _END = "<pad>", "</s>"
_LIGATURES = (
    0x132,
    0x133,
    *range(0x1C4, 0x1CD),
    *range(0x1F1, 0x1F4),
    *range(0xFB00, 0xFB07),
)
_WIDE = range(0xFF01, 0xFFF0)
_CONTROL = (*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF)
# What ftfy, which Wan applies, makes of rightly decoded text.
_PLAIN: dict[int, str | None] = {
    **dict.fromkeys(map(ord, "\u02bc\u2018\u2019\u201a\u201b"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"'),
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in (*_LIGATURES, *_WIDE)},
    **dict.fromkeys((*_CONTROL, *range(0xFFF9, 0xFFFD)), None),
}


def clean(text: str) -> str:
    """The text as Wan gives it to its tokenizer.

    HTML entities are resolved twice, quotes, ligatures, full- and half-width forms made plain,
    control characters left out, runs of white space made one space, and the ends stripped. Wan
    would also repair text that was decoded with the wrong character set; here it stays as it is.
    """
    text = html.unescape(html.unescape(text)).translate(_PLAIN)
    return " ".join(unicodedata.normalize("NFC", text).split())


class Tokenizer:
    """UMT5's tokenizer, from a local tokenizer.json or spiece.model (any file named *.model).

    Both give the same ids, except to texts that spell out a special token ("</s>"): as in Wan's
    tokenizer it is that token in a tokenizer.json, but characters like others in a spiece.model.

    Raises:
      ModuleNotFoundError: if the optional package `tokenizers`, or `sentencepiece` for a *.model,
        is not installed.
      FileNotFoundError: if there is no such file.
      ValueError: if it is no tokenizer, or one without UMT5's padding and end tokens.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        pieces = path.suffix.lower() == ".model"
        package = "sentencepiece" if pieces else "tokenizers"
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"the optional package {package} is not installed: pip install 'mirage_jax[text]', "
                "or use text embeddings from a file"
            ) from error
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file; expected UMT5's tokenizer.json or spiece.model"
            )
        read = _sentencepiece if pieces else _tokenizer_json
        self._encode, self._pad = read(module, path)

    def __call__(
        self, texts: Sequence[str], length: int = TEXT_LENGTH
    ) -> tuple[Int32[np.ndarray, "b length"], Bool[np.ndarray, "b length"]]:
        """Ids and mask of texts, cleaned, cut and padded to `length` tokens.

        The end token is always there: it is the last of a text that was cut.

        Raises:
          ValueError: if `length` leaves no room for the end token.
        """
        if length < 1:
            raise ValueError(f"length: found {length}, expected 1 or more")
        ids = np.full((len(texts), length), self._pad, np.int32)
        mask = np.zeros(ids.shape, bool)
        for row, found in enumerate(self._encode([clean(text) for text in texts], length)):
            ids[row, : len(found)] = found
            mask[row, : len(found)] = True
        return ids, mask


_Encode = Callable[[list[str], int], list[list[int]]]
"""Ids of texts, the end token included, at most so many of each."""


def _tokenizer_json(tokenizers: Any, path: Path) -> tuple[_Encode, int]:
    """How a tokenizer.json encodes, and its padding."""
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing more specific
        raise ValueError(f"{path}: not a tokenizer.json ({error})") from error
    pad, end = _special(path, {token: tokenizer.token_to_id(token) for token in (_PAD, _END)})
    tokenizer.no_padding()
    ends = tokenizer.encode("").ids
    if ends != [end]:
        raise ValueError(f"{path}: an empty text gave ids {ends}, expected [{end}], {_END!r} alone")

    def encode(texts: list[str], length: int) -> list[list[int]]:
        tokenizer.enable_truncation(length)
        return [encoded.ids for encoded in tokenizer.encode_batch(texts)]

    return encode, pad


def _sentencepiece(sentencepiece: Any, path: Path) -> tuple[_Encode, int]:
    """The same of a spiece.model, which itself puts no end to a text."""
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(path.read_bytes())
    except RuntimeError as error:
        raise ValueError(f"{path}: not a model of sentencepiece ({error})") from error
    known = [i for i in (processor.pad_id(), processor.eos_id()) if i >= 0]
    pad, end = _special(path, {processor.id_to_piece(i): i for i in known})

    def encode(texts: list[str], length: int) -> list[list[int]]:
        return [[*ids[: length - 1], end] for ids in processor.encode(texts)]

    return encode, pad


def _special(path: Path, ids: Mapping[str, int | None]) -> tuple[int, int]:
    """Ids of the padding and end tokens; ValueError if there are none."""
    pad, end = ids.get(_PAD), ids.get(_END)
    if pad is None or end is None:
        missing = _PAD if pad is None else _END
        raise ValueError(f"{path}: no token {missing!r}; expected the tokenizer of UMT5")
    return pad, end


@dataclasses.dataclass(frozen=True)
class TextEmbeddings:
    """Prompts and what the text encoder made of them.

    Attributes:
      prompts: the texts, each once.
      tokens: their embeddings, of any float dtype; zero from the length of a text on.
      lengths: tokens of every text, the end token included.
    """

    prompts: tuple[str, ...]
    tokens: Float[np.ndarray, "b n width"]
    lengths: Int32[np.ndarray, " b"]

    def of(self, prompts: Sequence[str]) -> Float[np.ndarray, "p n width"]:
        """Embeddings of some of the prompts, in the order asked for.

        Raises:
          ValueError: naming a prompt that is not there.
        """
        rows = {prompt: row for row, prompt in enumerate(self.prompts)}
        missing = [prompt for prompt in prompts if prompt not in rows]
        if missing:
            raise ValueError(f"prompt {missing[0]!r}: found none like it among {len(rows)}")
        return self.tokens[[rows[prompt] for prompt in prompts]]


def save_embeddings(path: str | Path, embeddings: TextEmbeddings) -> None:
    """Writes text embeddings to one safetensors file, without their padding.

    Tensors: `tokens` [sum of lengths, width], the texts one after another, and `lengths` [texts].
    The metadata field `text` is JSON: format, prompts, the padded length, and a checksum of the
    file (see `sealed`).

    Raises:
      ValueError: if prompts repeat or are not as many as embeddings, a length does not fit, the
        padding is not zero, or a value is not finite.
      OSError: if writing fails.
    """
    path, tokens, lengths = Path(path), embeddings.tokens, embeddings.lengths
    count, padded = tokens.shape[:2]
    _check(path, embeddings.prompts, lengths, padded)
    if len(lengths) != count:
        raise ValueError(f"{path}: tokens of {count} texts, expected {len(lengths)}")
    keep = _mask(lengths, padded)
    if np.any(tokens[~keep]):
        raise ValueError(f"{path}: tokens beyond the length of a text, expected zeros there")
    flat = np.ascontiguousarray(tokens[keep])
    _check_finite(path, flat)
    header = {
        "format": FORMAT,
        "length": padded,
        "prompts": embeddings.prompts,
        FIELD: UNSEALED,
    }
    # One metadata field: safetensors writes several in no fixed order.
    metadata = {"text": json.dumps(header)}
    try:
        with replacing(path) as partial:
            # Not `save_file`: it lets nobody but the owner read what it writes.
            partial.write_bytes(save({"tokens": flat, "lengths": lengths}, metadata=metadata))
            seal(partial)
    except OSError as error:
        raise OSError(f"{path}: could not be written: {error.strerror or error}") from error


def load_embeddings(path: str | Path, width: int | None = None) -> TextEmbeddings:
    """Reads what `save_embeddings` wrote.

    Args:
      path: the file.
      width: channels the denoiser expects (`Denoiser.text_width`); None accepts any.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is damaged, of another kind, inconsistent, or of another width.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected text embeddings")
    embeddings = read_unchanged(path, lambda: _load(path))
    found = embeddings.tokens.shape[-1]
    if width is not None and found != width:
        raise ValueError(f"{path}: found {found} channels, expected {width}")
    return embeddings


def _load(path: Path) -> TextEmbeddings:
    try:
        with safe_open(path, "numpy") as file:
            header = parse_object((file.metadata() or {}).get("text", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: damaged or not text embeddings ({error})") from error
    found = header.get("format")
    if found not in _READABLE:
        raise ValueError(f"{path}: found format {found!r}, expected {FORMAT!r}")
    for field in ("prompts", "length"):
        if field not in header:
            raise ValueError(f"{path}: field {field!r} is missing")
    texts = header["prompts"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path}: prompts: found {texts!r}, expected texts")
    if type(header["length"]) is not int or not 0 < header["length"] <= _LONGEST:
        raise ValueError(f"{path}: length: found {header['length']!r}, expected tokens of a text")
    for name, axes, kinds in (("tokens", 2, ("f", "bfloat16")), ("lengths", 1, ("i",))):
        if name not in tensors:
            raise ValueError(f"{path}: tensor {name!r} is missing")
        shape, dtype = tensors[name].shape, tensors[name].dtype
        if len(shape) != axes:
            raise ValueError(f"{path}: tensor {name!r}: found shape {shape}, expected {axes} axes")
        if dtype.kind not in kinds and dtype.name not in kinds:
            expected = "whole numbers" if name == "lengths" else "floating point"
            raise ValueError(f"{path}: tensor {name!r}: found {dtype}, expected {expected}")
    if (FIELD in header) != (found == FORMAT):
        raise ValueError(f"{path}: format {found!r}: a checksum is missing, or one too many")
    if found == FORMAT:
        check_seal(path)
    flat, lengths = tensors["tokens"], tensors["lengths"].astype(np.int32)
    prompts, padded = tuple(header["prompts"]), header["length"]
    _check(path, prompts, lengths, padded)
    if len(flat) != lengths.sum():
        raise ValueError(f"{path}: found {len(flat)} tokens, expected {lengths.sum()}")
    _check_finite(path, flat)
    tokens = np.zeros((len(prompts), padded, flat.shape[1]), flat.dtype)
    tokens[_mask(lengths, padded)] = flat
    return TextEmbeddings(prompts, tokens, lengths)


def _mask(lengths: np.ndarray, padded: int) -> np.ndarray:
    return np.arange(padded) < lengths[:, None]


def _check(path: Path, prompts: Sequence[str], lengths: np.ndarray, padded: int) -> None:
    if len(set(prompts)) != len(prompts):
        raise ValueError(f"{path}: a prompt is there twice, expected each once")
    if len(prompts) != len(lengths):
        raise ValueError(f"{path}: found {len(prompts)} prompts, expected {len(lengths)}")
    if len(lengths) and not 0 <= lengths.min() <= lengths.max() <= padded:
        raise ValueError(f"{path}: lengths: found {lengths.tolist()}, expected 0..{padded}")


def _check_finite(path: Path, tokens: np.ndarray) -> None:
    if not np.isfinite(tokens.astype(np.float32)).all():
        raise ValueError(f"{path}: found values that are not finite")

"""What a path holds instead of safetensors, told by its first bytes or by the folders in it."""

from __future__ import annotations

from pathlib import Path

PICKLED = (".pth", ".pt", ".bin", ".ckpt")
"""Endings of checkpoints that PyTorch pickles."""

_NESTS = ("model_state", "vace", "generator", "state_dict", "model")  # where weights may lie inside
_UNFINISHED = (".part", ".crdownload", ".incomplete", ".aria2", ".download")
_EXPECTED = "expected a safetensors file"
_PAGE = f"as a server sends instead of a file it keeps back; {_EXPECTED}"
_BEGINNINGS = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, which stands for the file; fetch that with `git lfs pull`",
    ),
    (b"<!doctype html", f"an HTML page, {_PAGE}"),
    (b"<html", f"an HTML page, {_PAGE}"),
    (b"<?xml", f"an XML page, {_PAGE}"),
    (b"gguf", f"a GGUF file, whose quantised values are not read; {_EXPECTED} of the same model"),
    (b"\x93numpy", f"a NumPy array; {_EXPECTED}"),
    (b"\x1f\x8b", f"a gzip archive; {_EXPECTED}, unpacked"),
    (b"{", f"a JSON text; {_EXPECTED}, or an index of shards (*.safetensors.index.json)"),
)
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_SEARCHED = ("*/*.safetensors", "*/*/*.safetensors")
_LISTED = 5


def other_contents(file: Path) -> str:
    """What a file is that is not safetensors, and what to do about it; "" where that is unknown.

    A checkpoint of PyTorch is known by its ending too, whether the file exists or not.
    """
    beginning = b""
    if file.is_file():
        with file.open("rb") as stream:
            beginning = stream.read(64)
        if not beginning:
            return f"an empty file; {_EXPECTED}"
        if _may_be_safetensors(beginning):
            return ""
        told = beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        for start, description in _BEGINNINGS:
            if told.startswith(start):
                return description
    elif file.is_symlink():
        return f"a link to {file.readlink()}, which does not exist; {_EXPECTED}"
    if file.suffix.lower() in PICKLED or beginning.startswith(_PICKLES):
        return _pickle(file)
    if file.suffix.lower() in _UNFINISHED:
        return "an unfinished download; expected the whole file"
    return ""


def _may_be_safetensors(beginning: bytes) -> bool:
    """Whether it begins with the length of a header, below 4 GB, and the header."""
    return not beginning[4:8].strip(b"\0") and beginning[8:9] in (b"", b"{")


def _pickle(file: Path) -> str:
    safe = file.with_suffix(".safetensors")
    if safe == file:
        safe = file.with_stem(f"{file.stem}_safe")
    return (
        "a pickled checkpoint, which is never opened as it can run any code; expected "
        'safetensors. Where PyTorch is installed: python -c "import torch; from safetensors.torch '
        f"import save_file; t = torch.load('{file.name}', map_location='cpu', weights_only=True); "
        f"t = next((t[k] for k in {_NESTS} if isinstance(t.get(k), dict)), t); "
        "save_file({k: v.contiguous().clone() for k, v in t.items() if torch.is_tensor(v)}, "
        f"'{safe.name}')\""
    )


def other_folder(folder: Path) -> tuple[Path, str]:
    """For a folder without safetensors: which file or folder is in the way, and what it is."""
    inner = {file.parent for pattern in _SEARCHED for file in folder.glob(pattern)}
    if inner:
        names = [f"{path.relative_to(folder).as_posix()}/" for path in sorted(inner)]
        more = ", ..." if len(names) > _LISTED else ""
        pipeline = (folder / "model_index.json").is_file()
        what = "a diffusers pipeline" if pipeline else "no *.safetensors file in the folder itself"
        return folder, f"found {what}; point to one of {', '.join(names[:_LISTED])}{more}"
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in (*PICKLED, ".gguf") and (found := other_contents(file)):
            return file, found
    return folder, "found no *.safetensors file there"

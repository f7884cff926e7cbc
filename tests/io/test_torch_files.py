"""Files of torch.save, read without torch: what comes back, and what is refused."""

import io
import zipfile

import numpy as np
import pytest

from helpers.made_footage import evil_torch, torch_bytes
from mirage_jax.io import torch_files


def test_tensors_come_back(tmp_path):
    arrays = [np.arange(24, dtype=t).reshape(2, 3, 4) for t in ("<f4", "<f8", "<i8", "|u1")]
    content = [{"key": "a ü", "n": 7, "nested": (1, [2, "x"]), "tensors": arrays}]
    (tmp_path / "a.torch").write_bytes(torch_bytes(content))
    (found,) = torch_files.load(tmp_path / "a.torch")
    assert (found["key"], found["n"], found["nested"]) == ("a ü", 7, [1, [2, "x"]])
    for tensor, array in zip(found["tensors"], arrays, strict=True):
        np.testing.assert_array_equal(tensor.read(), array)
        assert tensor.read().dtype == array.dtype


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(X\x02\x00\x00\x00lstR.",
        b"cbuiltins\neval\n(X\x01\x00\x00\x001tR.",
        b"cbuiltins\ngetattr\n.",
        b"ctorch\nload\n.",
        b"ctorch._utils\n_rebuild_parameter\n.",
        b"cnumpy\nload\n.",
        b"\x8c\x02os\x8c\x06system\x93.",  # by the stack
    ],
)
def test_names_other_than_those_of_tensors_are_refused(program, tmp_path):
    path = tmp_path / "a.torch"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x04" + program)
    with pytest.raises(ValueError, match=r"a\.torch: found .*, expected tensors, lists"):
        torch_files.load(path)


def test_nothing_in_a_torch_file_is_run(tmp_path, capsys):
    path = tmp_path / "a.torch"
    path.write_bytes(evil_torch())
    with pytest.raises(ValueError, match=r"found .*print, expected tensors"):
        torch_files.load(path)
    assert capsys.readouterr().out == ""


def test_damaged_torch_files_are_refused(tmp_path):
    path = tmp_path / "a.torch"
    data = torch_bytes([{"a": np.arange(1000.0)}])
    for damaged in (b"", b"text", data[: len(data) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.torch: found no whole torch file"):
            torch_files.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02](X")
    with pytest.raises(ValueError, match=r"a\.torch: data\.pkl: damaged"):
        torch_files.load(path)
    # A storage that is shorter than its tensor.
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", whole.read("archive/data.pkl"))
        archive.writestr("archive/data/0", b"1234")
    (found,) = torch_files.load(path)
    with pytest.raises(ValueError, match="found 4 bytes, expected 8000"):
        found["a"].read()

"""Arrays come back as numpy wrote them; headers that ask for more than there is are refused."""

import io
import re
import zipfile

import numpy as np
import pytest

from mirage_jax.io.numpy_files import ArrayFile, read_array

ARRAYS = {
    "float": np.linspace(0, 1, 24).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    "big": np.arange(4, dtype=">u2"),
    "scalar": np.float32(2.5),
    "empty": np.zeros((0, 3), bool),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, **ARRAYS)
    with ArrayFile(path) as file:
        assert set(file.names) == set(ARRAYS)
        for name, array in ARRAYS.items():
            found = file.read(name)
            assert found.dtype == np.asarray(array).dtype
            np.testing.assert_array_equal(found, array)
    for name, array in ARRAYS.items():
        np.save(tmp_path / f"{name}.npy", array)
        np.testing.assert_array_equal(read_array(tmp_path / f"{name}.npy"), array)


def npy(shape, data=b"", descr="<f8"):
    buffer = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((10**15,), b"\0" * 8), "found 8 bytes"),
        (npy((2,), b"\0" * 17), "found 17 bytes for float64"),
        (npy((1,), b"\0" * 8, "|O"), "never unpickled"),
        (npy((1,), b"\0" * 8, "<M8[s]"), "expected numbers"),
        (npy((-1,), b"\0" * 8), "."),
        (b"\x93NUMPY\x01\x00\x04\x00{'a'", "."),
        (b"\x93NUMPY\x09\x00", "version"),
        (b"", "."),
    ],
)
def test_what_does_not_fit_its_header_is_refused(tmp_path, content, message):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: .*{message}"):
        read_array(path)
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)
    with (
        ArrayFile(path) as file,
        pytest.raises(ValueError, match=rf"{re.escape(str(path))}: x: .*{message}"),
    ):
        file.read("x")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_other_archives_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy((), b"\0" * 8))
        archive.writestr("x.npy", npy((), b"\1" * 8))
    with pytest.raises(ValueError, match=r"a\.npz: found arrays of one name"):
        ArrayFile(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", npy((), b"\0" * 8))
    with ArrayFile(path) as file, pytest.raises(ValueError, match="compression"):
        file.read("x")
    with pytest.raises(FileNotFoundError):
        ArrayFile(tmp_path / "b.npz")

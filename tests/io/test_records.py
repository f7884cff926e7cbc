"""ArrayRecord files that cannot be written are OSErrors that name them."""

import errno
import os

import pytest
from array_record.python.array_record_module import ArrayRecordReader

from mirage_jax.io.records import record_writer


def test_records_are_there_when_the_block_ends(tmp_path):
    path = tmp_path / "a.array_record"
    with record_writer(path, "group_size:1") as writer:
        writer.write(b"one")
        writer.write(b"two")
    reader = ArrayRecordReader(os.fspath(path))
    assert reader.read_all() == [b"one", b"two"]
    reader.close()


def test_a_folder_that_is_not_there(tmp_path):
    path = tmp_path / "none" / "a.array_record"
    with pytest.raises(OSError) as error, record_writer(path, "group_size:1"):
        pass
    assert error.value.filename == str(path) and error.value.errno == errno.EIO


def test_errors_of_the_block_pass_as_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), record_writer(tmp_path / "a", "group_size:1"):
        raise RuntimeError("mine")

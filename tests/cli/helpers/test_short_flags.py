"""--source is short for config.data.root."""

import pytest

from mirage_jax.cli import encode, evaluate, quickstart, record, train
from mirage_jax.cli.helpers import short_flags
from mirage_jax.cli.helpers.short_flags import SOURCE, ShortFlag


@pytest.mark.parametrize("words", [["--source=walks"], ["--source", "walks"], ["-source=walks"]])
def test_the_field_takes_the_place_of_the_flag(words):
    line = ["mirage record", *words, "--config.data.fps=0", "--sources=3"]
    expected = ["mirage record", "--config.data.root=walks", "--config.data.fps=0", "--sources=3"]
    assert SOURCE.put(line) == expected
    assert ShortFlag("length", "record.frames", "frames").put(line) == line


@pytest.mark.parametrize("words", [["--source"], ["--source="], ["--source", ""]])
def test_a_flag_without_a_value_is_refused(words):
    with pytest.raises(ValueError, match="--source: found '', expected the folder or file"):
        SOURCE.put(words)


@pytest.mark.parametrize(
    "words", [["--config.data.root=a"], ["--config.data.root", "a"], ["-config.data.root=a"]]
)
def test_the_field_beside_it_is_refused(words):
    with pytest.raises(ValueError, match=r"--source: found --config.data.root beside it"):
        SOURCE.put([*words, "--source=b"])


def test_two_of_them_or_another_flag_for_a_value_are_refused():
    with pytest.raises(ValueError, match="--source: found --source beside it, expected one"):
        SOURCE.put(["--source=a", "--source=b"])
    with pytest.raises(ValueError, match="--source: found '--workdir=x', expected the folder"):
        SOURCE.put(["--source", "--workdir=x"])


def test_commands_that_read_footage_have_it():
    """`mirage evaluate --source` is another one: captures that come back."""
    for command in (encode, record, train, quickstart):
        assert short_flags.of_command(command.__name__) == (SOURCE,)
    assert short_flags.of_command(evaluate.__name__) == ()
